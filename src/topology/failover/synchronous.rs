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

    /// How many standbys could be meant, if the cluster has `replicas` of them. The same setting is often given to all
    /// nodes and names the `primary` too, which is no standby of its own.
    pub fn most(&self, replicas: usize, primary: &str) -> usize {
        match self.names.iter().any(|name| name == "*") {
            true => replicas.max(self.least),
            false => self.names.iter().filter(|name| !name.eq_ignore_ascii_case(primary)).count(),
        }
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
        assert_eq!((all.most(2, "pg1"), all.most(2, "db1")), (2, 3));
        assert_eq!(Synchronous::read("*").expect("it can be read").most(2, "pg1"), 2);
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
