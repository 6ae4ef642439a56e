//! `synchronous_standby_names`, as far as it tells where an acknowledged commit must be
//! (<https://www.postgresql.org/docs/current/runtime-config-replication.html#GUC-SYNCHRONOUS-STANDBY-NAMES>).

/// Of `names`, at least `least` hold every acknowledged commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synchronous {
    /// How many a commit waits for.
    pub least: usize,
    /// Names of standbys; `*` is any.
    pub names: Vec<String>,
}

impl Synchronous {
    /// Reads the setting; `None` if no standby is waited for, or if it cannot be read.
    pub fn read(setting: &str) -> Option<Self> {
        let setting = setting.trim();
        let (list, least) = match setting.find('(') {
            Some(open) if setting.ends_with(')') => {
                let head = setting.get(..open)?.trim();
                let number = head.split_whitespace().last()?;
                let kind = head.strip_suffix(number)?.trim().to_ascii_lowercase();
                if !matches!(kind.as_str(), "" | "any" | "first") {
                    return None;
                }
                (setting.get(open + 1..setting.len() - 1)?, number.parse().ok()?)
            }
            _ => (setting, 1),
        };
        let names: Vec<String> = list.split(',').map(|name| name.trim().trim_matches('"').to_owned()).collect();
        let is_good = least > 0 && names.iter().all(|name| !name.is_empty());
        is_good.then_some(Self { least, names })
    }

    /// How many standbys may have acknowledged commits beside the nodes of these names: those that were connected
    /// (`senders`), and those that are named and are no such node. The same setting is often given to all nodes and
    /// names the primary too, which is no standby of its own: by one of `own_names`, unless a standby is called so.
    pub fn elsewhere(&self, nodes: &[String], senders: &[String], own_names: &[&str]) -> usize {
        let count =
            |names: &[String], name: &str| names.iter().filter(|other| other.eq_ignore_ascii_case(name)).count();
        let mut counted: Vec<&String> = Vec::new();
        let mut elsewhere = 0;
        for name in self.names.iter().chain(senders) {
            let is_meant = name.is_empty() || name != "*" && self.names(name);
            if !is_meant || counted.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                continue;
            }
            counted.push(name);
            let is_own = own_names.iter().any(|own| own.eq_ignore_ascii_case(name));
            let is_other = count(&self.names, name) > 0 && !is_own;
            let most = count(senders, name).max(usize::from(is_other));
            elsewhere += most.saturating_sub(count(nodes, name));
        }
        elsewhere
    }

    /// Whether this standby is meant. PostgreSQL compares without regard to case.
    pub fn names(&self, standby: &str) -> bool {
        self.names.iter().any(|name| name == "*" || name.eq_ignore_ascii_case(standby))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(setting: &str) -> Option<(usize, String)> {
        Synchronous::read(setting).map(|found| (found.least, found.names.join("+")))
    }

    #[test]
    fn the_primary_is_no_standby_of_its_own() {
        let all = Synchronous::read("ANY 1 (pg1, pg2, pg3)").expect("it can be read");
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let nodes = names(&["pg2", "PG3"]);
        assert_eq!((all.elsewhere(&nodes, &[], &["pg1"]), all.elsewhere(&nodes, &[], &[""])), (0, 1));
        assert_eq!((all.elsewhere(&nodes[..1], &[], &["", "pg1"]), all.elsewhere(&[], &nodes, &["pg1"])), (1, 2));
        assert_eq!(all.elsewhere(&nodes, &[], &["pg2"]), 1, "the primary is called otherwise: pg1 is somebody else");
        assert_eq!(all.elsewhere(&nodes, &names(&["pg2", "pg2", "other"]), &["pg1"]), 1, "two of one name");
        assert_eq!(all.elsewhere(&nodes, &names(&["pg1"]), &["pg1"]), 1, "a standby is called so");
        let any = Synchronous::read("*").expect("it can be read");
        assert_eq!(
            (any.elsewhere(&nodes, &nodes, &["pg1"]), any.elsewhere(&nodes, &names(&["archive", ""]), &[])),
            (0, 2)
        );
    }

    #[test]
    fn every_form_of_the_setting() {
        assert_eq!(read("pg2"), Some((1, "pg2".into())));
        assert_eq!(read(" pg2 , \"pg 3\" "), Some((1, "pg2+pg 3".into())));
        assert_eq!(read("2 (pg2, pg3, pg4)"), Some((2, "pg2+pg3+pg4".into())));
        assert_eq!(read("FIRST 1 (pg2)"), Some((1, "pg2".into())));
        assert_eq!(read("any 2(pg2,pg3)"), Some((2, "pg2+pg3".into())));
        assert_eq!(read("*"), Some((1, "*".into())));
        for none in ["", "  ", "ANY 0 (a)", "ANY (a)", "SOME 1 (a)", "1 ()"] {
            assert_eq!(read(none), None, "{none:?}");
        }
    }
}
