//! The words of a whole request, for the few who need more than the first ones.

use super::number;

/// The words of a request that [`super::RequestScan`] has found, first to last. Ends early where the bytes are no
/// request.
pub fn words(request: &[u8]) -> Words<'_> {
    let rest = match number::line(request, 0) {
        Some(([b'*', ..], len)) => request.get(len..).unwrap_or_default(),
        _ => &[],
    };
    Words { rest }
}

/// How many words a request says that it has.
pub fn announced_words(request: &[u8]) -> usize {
    match number::line(request, 0) {
        Some(([b'*', digits @ ..], _)) => number::parse(digits).and_then(|n| usize::try_from(n).ok()).unwrap_or(0),
        _ => 0,
    }
}

/// See [`words`].
#[derive(Debug, Clone)]
pub struct Words<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (line, len) = number::line(self.rest, 0)?;
        let [b'$', digits @ ..] = line else { return None };
        let length = usize::try_from(number::parse(digits)?).ok()?;
        let (word, rest) = self.rest.get(len..)?.split_at_checked(length)?;
        self.rest = rest.get(2..)?;
        Some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::{announced_words, words};
    use crate::wire::resp::encode;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_encoded_is_read_again(request in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 1..9)) {
            let mut bytes = Vec::new();
            encode(&mut bytes, &request);
            let found: Vec<Vec<u8>> = words(&bytes).map(<[u8]>::to_vec).collect();
            prop_assert_eq!(announced_words(&bytes), request.len());
            prop_assert_eq!(found, request);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(words(&bytes).count() <= bytes.len());
        }
    }
}
