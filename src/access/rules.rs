//! The rules' file, and the decision.

use serde::Deserialize;

use super::{Identity, Object, Permission, Role, Subject};
use crate::base::Files;

/// The most rules.
const RULES_MAX: usize = 10_000;

/// What is wrong with a rules' file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// It is no TOML, or has something in it that no rule has.
    #[error("{0}")]
    Malformed(String),
    /// A rule that nobody can meet, or that allows nothing.
    #[error("rule {number}: {what}")]
    Rule {
        /// Which, counted from 1.
        number: usize,
        /// What is wrong.
        what: String,
    },
}

/// The rules in force.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    rule: Vec<Rule>,
}

/// One rule: whoever it names gets a role, and single permissions, on the domains that it names; what definitions that
/// are handed in by it may name of the host is `files`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Rule {
    uids: Vec<u32>,
    gids: Vec<u32>,
    role: Option<Role>,
    allow: Vec<Words>,
    /// Names, patterns with `*` and `?`, or uuids; `None` is every domain.
    domains: Option<Vec<String>>,
    /// Directories and files. `None` is every file for a rule that is for every domain, and no file for one that is not.
    files: Option<Vec<String>>,
    /// Its place in the file, counted from 1.
    #[serde(skip)]
    number: Option<usize>,
}

/// A permission as it stands in the file.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
struct Words(Permission);

impl TryFrom<String> for Words {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

impl Policy {
    /// Nobody but root may do anything; members of `group` are operators.
    #[must_use]
    pub fn built_in(group: Option<u32>) -> Self {
        let mut rules = vec![Rule { uids: vec![0], role: Some(Role::Admin), ..Rule::default() }];
        let group = group.map(|gid| Rule { gids: vec![gid], role: Some(Role::Operator), ..Rule::default() });
        rules.extend(group);
        Self { rules }
    }

    /// The rules of an ordinary user's own daemon: that user may do everything, and so may root.
    #[must_use]
    pub fn of_user(uid: u32) -> Self {
        Self { rules: vec![Rule { uids: vec![0, uid], role: Some(Role::Admin), ..Rule::default() }] }
    }

    /// Reads a file's text. Root and the file's owner stay administrators whatever it says: they can change it.
    pub fn parse(text: &str, owner: u32) -> Result<Self, RulesError> {
        let mut file: File =
            toml::from_str(text).map_err(|error| RulesError::Malformed(error.to_string()))?;
        if file.rule.len() > RULES_MAX {
            return Err(RulesError::Malformed(format!("more than {RULES_MAX} rules")));
        }
        for (index, rule) in file.rule.iter_mut().enumerate() {
            rule.number = Some(index + 1);
            let wrong = |what: &str| RulesError::Rule { number: index + 1, what: what.into() };
            if rule.uids.is_empty() && rule.gids.is_empty() {
                return Err(wrong("it names nobody; add uids or gids"));
            }
            if rule.role.is_none() && rule.allow.is_empty() {
                return Err(wrong("it allows nothing; add a role or allow"));
            }
            if let Some(path) = rule.files.iter().flatten().find(|path| !Files::is_plain(path)) {
                return Err(wrong(&format!(
                    "its files have {path:?}; write absolute paths, without `.`, `..` and doubled slashes"
                )));
            }
        }
        let mut policy = Self::of_user(owner);
        policy.rules.extend(file.rule);
        Ok(policy)
    }

    /// Whether somebody may. `subject` is the domain that it is about, where it is about one.
    ///
    /// A rule for some domains gives nothing on other kinds of objects but what their owner needs in order to see
    /// those domains at all: opening a connection and searching it.
    #[must_use]
    pub fn allows(&self, who: &Identity, permission: Permission, subject: Option<Subject<'_>>) -> bool {
        self.rules.iter().any(|rule| rule.is_for(who) && rule.grants(permission, subject))
    }

    /// Which files of the host the definition of a domain may name, where somebody hands it in by this permission.
    #[must_use]
    pub fn files(&self, who: &Identity, permission: Permission, subject: Subject<'_>) -> Files {
        let rules =
            self.rules.iter().filter(|rule| rule.is_for(who) && rule.grants(permission, Some(subject)));
        rules.map(Rule::files).fold(Files::none(), Files::or)
    }

    /// Whether there is anything at all on which somebody may: before it is looked up what a call is about.
    #[must_use]
    pub fn allows_somewhere(&self, who: &Identity, permission: Permission) -> bool {
        self.rules.iter().any(|rule| rule.is_for(who) && rule.has(permission))
    }
}

impl Rule {
    fn is_for(&self, who: &Identity) -> bool {
        self.uids.contains(&who.uid)
            || self.gids.iter().any(|gid| *gid == who.gid || who.groups.contains(gid))
    }

    fn has(&self, permission: Permission) -> bool {
        self.role.is_some_and(|role| role.has(permission))
            || self.allow.iter().any(|allowed| allowed.0 == permission)
    }

    fn grants(&self, permission: Permission, subject: Option<Subject<'_>>) -> bool {
        let holds = self.has(permission);
        let Some(domains) = &self.domains else {
            // Pools and volumes are files of the host, whichever they are.
            let stored = matches!(permission.object, Object::StoragePool | Object::StorageVol);
            return holds && (self.files.is_none() || !stored);
        };
        match permission.object {
            Object::Domain => holds && subject.is_some_and(|subject| name(domains, subject)),
            Object::Connect => Role::Viewer.has(permission),
            _ => false,
        }
    }

    fn files(&self) -> Files {
        let only = match (&self.files, &self.domains) {
            (Some(files), _) => Some(files.clone()),
            (None, Some(_)) => Some(Vec::new()),
            (None, None) => None,
        };
        Files::new(only, self.number.into_iter().collect())
    }
}

/// Whether any of these names, patterns and uuids means a domain.
fn name(patterns: &[String], subject: Subject<'_>) -> bool {
    let mut room = uuid::Uuid::encode_buffer();
    let uuid: &str = subject.uuid.0.as_hyphenated().encode_lower(&mut room);
    patterns.iter().any(|pattern| {
        pattern.eq_ignore_ascii_case(uuid) || glob(pattern.as_bytes(), subject.name.as_bytes())
    })
}

/// Whether a name matches a pattern in which `*` is anything and `?` one byte.
///
/// Goes back to the last `*` only, so it takes at most the product of the two lengths.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n, mut star) = (0, 0, None);
    while let Some(byte) = name.get(n) {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
                continue;
            }
            Some(wanted) if *wanted == b'?' || wanted == byte => {
                p += 1;
                n += 1;
                continue;
            }
            _ => {}
        }
        let Some((at, from)) = star else { return false };
        star = Some((at, from + 1));
        p = at + 1;
        n = from + 1;
    }
    pattern.iter().skip(p).all(|byte| *byte == b'*')
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::DomainUuid;

    const RULES: &str = r#"
        [[rule]]
        uids = [1000]
        role = "operator"
        domains = ["web-*", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"]

        [[rule]]
        gids = [50]
        allow = ["domain:getattr", "domain:read"]
    "#;

    fn uuid(last: u8) -> DomainUuid {
        format!("6ba7b810-9dad-11d1-80b4-00c04fd430c{last}").parse().map(DomainUuid).unwrap()
    }

    fn ask(policy: &Policy, who: &Identity, permission: &str, name: &str) -> bool {
        let subject = Subject { name, uuid: uuid(9) };
        policy.allows(who, permission.parse().unwrap(), Some(subject))
    }

    #[test]
    fn what_no_rule_allows_is_denied() {
        let policy = Policy::parse(RULES, 0).unwrap();
        let tenant = Identity { uid: 1000, ..Identity::default() };
        assert!(ask(&policy, &tenant, "domain:start", "web-1"));
        assert!(!ask(&policy, &tenant, "domain:start", "db-1"));
        assert!(!ask(&policy, &tenant, "domain:getattr", "db-1"));
        assert!(!ask(&policy, &tenant, "domain:write", "web-1"));
        let somewhere = |words: &str| policy.allows_somewhere(&tenant, words.parse().unwrap());
        assert!(somewhere("domain:start") && !somewhere("domain:write"));
        assert!(policy.allows(&tenant, "connect:search_domains".parse().unwrap(), None));
        assert!(!policy.allows(&tenant, "connect:write".parse().unwrap(), None));
        assert!(!policy.allows(&tenant, "storage_pool:read".parse().unwrap(), None));
        let by_uuid = Subject { name: "x", uuid: uuid(8) };
        assert!(policy.allows(&tenant, "domain:stop".parse().unwrap(), Some(by_uuid)));
        let reader = Identity { uid: 7, gid: 7, groups: vec![50], pid: 0 };
        assert!(ask(&policy, &reader, "domain:read", "any") && !ask(&policy, &reader, "domain:stop", "any"));
        let nobody = Identity { uid: 8, gid: 8, ..Identity::default() };
        assert!(!policy.allows(&nobody, "connect:getattr".parse().unwrap(), None));
    }

    #[test]
    fn a_rule_for_some_domains_gives_the_files_that_it_names() {
        let rules = r#"
            [[rule]]
            uids = [1]
            allow = ["domain:write"]
            domains = ["a-*"]
            files = ["/srv/a", "/srv/iso/"]

            [[rule]]
            uids = [1, 2]
            allow = ["domain:write"]
            domains = ["?-1"]

            [[rule]]
            uids = [3]
            role = "admin"

            [[rule]]
            uids = [4]
            role = "admin"
            files = ["/srv"]
        "#;
        let policy = Policy::parse(rules, 0).unwrap();
        let files = |uid, name, permission: &str| {
            let subject = Subject { name, uuid: uuid(9) };
            policy.files(&Identity { uid, ..Identity::default() }, permission.parse().unwrap(), subject)
        };
        let files = |uid, name| files(uid, name, "domain:write");
        assert!(files(1, "a-1").has("/srv/a/1.img") && files(1, "a-1").has("/srv/iso/1.iso"));
        assert!(!files(1, "a-1").has("/srv/b/1.img") && files(1, "a-1").rules() == [1, 2]);
        // What one rule gives on its domains, it does not give on another rule's.
        assert!(!files(1, "b-1").has("/srv/a/1.img") && !files(2, "a-1").has("/srv/a/1.img"));
        assert!(files(3, "any").is_all() && files(0, "any").is_all());
        assert!(files(4, "any").has("/srv/x") && !files(4, "any").has("/etc/x"));
        assert!(!files(5, "a-1").has("/srv/a/1.img"));
        // A rule that is for some files gives no volume by any name.
        let may = |uid, permission: &str| {
            policy.allows(&Identity { uid, ..Identity::default() }, permission.parse().unwrap(), None)
        };
        assert!(may(3, "storage_vol:delete") && !may(4, "storage_vol:delete"));
        assert!(!may(4, "storage_pool:getattr") && may(4, "network:getattr"));
        for wrong in ["srv", "/srv/../etc", "/srv//a", "", "/srv/."] {
            let text = format!("[[rule]]\nuids=[1]\nrole='admin'\nfiles=['{wrong}']");
            assert!(matches!(Policy::parse(&text, 0), Err(RulesError::Rule { number: 1, .. })), "{wrong}");
        }
    }

    #[test]
    fn root_is_an_administrator_and_a_group_operates() {
        let root = Identity::default();
        assert!(ask(&Policy::parse("", 0).unwrap(), &root, "domain:write", "a"));
        let member = Identity { uid: 9, gid: 9, groups: vec![7], pid: 0 };
        assert!(ask(&Policy::built_in(Some(7)), &member, "domain:start", "a"));
        assert!(!ask(&Policy::built_in(Some(7)), &member, "domain:write", "a"));
        assert!(!ask(&Policy::built_in(None), &member, "domain:getattr", "a"));
        assert!(!ask(&Policy::default(), &root, "domain:getattr", "a"));
    }

    #[test]
    fn a_rule_that_does_nothing_is_refused() {
        assert!(matches!(Policy::parse("[[rule]]\nuids=[1]", 0), Err(RulesError::Rule { number: 1, .. })));
        assert!(matches!(Policy::parse("[[rule]]\nrole='admin'", 0), Err(RulesError::Rule { .. })));
        assert!(matches!(Policy::parse("[[rule]]\nuid=[1]", 0), Err(RulesError::Malformed(_))));
        assert!(matches!(
            Policy::parse("[[rule]]\nuids=[1]\nallow=['domain:fly']", 0),
            Err(RulesError::Malformed(_))
        ));
    }

    proptest! {
        #[test]
        fn a_pattern_with_only_stars_matches_its_pieces(name in "[ab*]{0,12}", pattern in "[ab?*]{0,12}") {
            // The plain, exponential definition.
            fn plain(p: &[u8], n: &[u8]) -> bool {
                match (p.split_first(), n.split_first()) {
                    (None, None) => true,
                    (Some((b'*', rest)), None) => plain(rest, n),
                    (Some((b'*', rest)), Some((_, behind))) => plain(rest, n) || plain(p, behind),
                    (Some((b'?', rest)), Some((_, behind))) => plain(rest, behind),
                    (Some((a, rest)), Some((b, behind))) => a == b && plain(rest, behind),
                    _ => false,
                }
            }
            prop_assert_eq!(glob(pattern.as_bytes(), name.as_bytes()), plain(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
