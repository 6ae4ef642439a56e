//! Whether a primary that this instance has lost is lost. Pure.
//!
//! One instance that cannot reach it proves little; most of them, with nobody who can, prove what can be proved.

use serde::{Deserialize, Serialize};

/// What an instance thinks of the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Vote {
    /// It answers here, and takes writes.
    Up,
    /// One or the other, soon.
    Unsure,
    /// It is lost here.
    Lost,
}

/// What to do about a primary that is lost here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It is lost.
    Begin,
    /// Others have to say first what they think; in words, who.
    Wait(String),
    /// It answers others: who leads should be one of them.
    HandOver(String),
}

/// Judges a primary that is lost here by what all other instances say, each with its name.
pub fn judge<'a>(others: impl Iterator<Item = (&'a str, Option<Vote>)>) -> Finding {
    let (mut all, mut lost) = (1, 1);
    let mut undecided = Vec::new();
    for (name, vote) in others {
        all += 1;
        match vote {
            Some(Vote::Up) => return Finding::HandOver(format!("it answers {name}")),
            Some(Vote::Lost) => lost += 1,
            Some(Vote::Unsure) | None => undecided.push(name),
        }
    }
    if lost * 2 > all {
        return Finding::Begin;
    }
    Finding::Wait(format!("{lost} of {all} instances have lost it; {} cannot tell yet", undecided.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(votes: &[Option<Vote>]) -> Finding {
        judge(votes.iter().map(|vote| ("x", *vote)))
    }

    #[test]
    fn alone_one_decides() {
        assert_eq!(judged(&[]), Finding::Begin);
    }

    #[test]
    fn most_have_to_agree_and_nobody_may_object() {
        let (up, unsure, lost) = (Some(Vote::Up), Some(Vote::Unsure), Some(Vote::Lost));
        assert_eq!(judged(&[lost, unsure]), Finding::Begin, "two of three");
        assert_eq!(judged(&[lost, lost]), Finding::Begin);
        assert!(matches!(judged(&[unsure]), Finding::Wait(_)), "half is not most");
        assert!(matches!(judged(&[unsure, None]), Finding::Wait(_)));
        assert!(matches!(judged(&[lost, up]), Finding::HandOver(_)), "it answers somebody");
    }
}
