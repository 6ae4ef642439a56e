//! Filters of searches (RFC 4515), in which `$username` stands for the user who logs in.
//!
//! The text is taken apart once, when the configuration is read, and the name is put into what it has become: whatever the
//! name holds, it is one value in the place of another, and changes nothing about what is asked.

use rasn::types::{OctetString, SetOf};
use rasn_ldap::{AttributeValueAssertion, MatchingRuleAssertion, SubstringChoice, SubstringFilter};

/// What stands for the user.
const USER: &str = "$username";
/// How deep filters may stand within each other.
const DEEPEST: usize = 20;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(Node);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
    Present(String),
    Equal(String, Value),
    Approximate(String, Value),
    AtLeast(String, Value),
    AtMost(String, Value),
    /// The first begins the value, the last ends it; what is empty there says nothing.
    Parts(String, Vec<Value>),
    Rule {
        attribute: Option<String>,
        rule: Option<String>,
        in_names: bool,
        value: Value,
    },
}

/// Bytes with the user's name between them: the name stands behind each part but the last.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Value(Vec<Vec<u8>>);

/// `uid`, `cn;lang-de`, `2.5.4.3` (RFC 4512, section 2.5).
pub fn is_attribute(text: &str) -> bool {
    let mut options = text.split(';');
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let is_number = |text: &str| text.split('.').all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    let is_name = |text: &str| is_word(text) && text.starts_with(|c: char| c.is_ascii_alphabetic());
    options.next().is_some_and(|first| is_name(first) || is_number(first)) && options.all(is_word)
}

impl Filter {
    /// `(attribute=$username)`
    pub fn of_attribute(attribute: &str) -> Self {
        Filter(Node::Equal(attribute.to_owned(), Value(vec![Vec::new(), Vec::new()])))
    }

    /// Takes a filter's text apart. The outer parentheses may be left out, as OpenLDAP has it.
    ///
    /// # Errors
    /// What is wrong with it, in words that go on from "the filter".
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut reading = Reading { rest: text.trim_matches(' ') };
        let node = match reading.rest.starts_with('(') {
            true => reading.group(0)?,
            false => reading.inside(0)?,
        };
        match reading.rest {
            "" => Ok(Filter(node)),
            rest => Err(format!("ends before {rest:?}")),
        }
    }

    /// It asks for something of the user.
    pub fn names_the_user(&self) -> bool {
        self.0.names_the_user()
    }

    pub(super) fn about(&self, user: &str) -> rasn_ldap::Filter {
        self.0.about(user)
    }
}

struct Reading<'a> {
    rest: &'a str,
}

impl<'a> Reading<'a> {
    fn take(&mut self, what: char) -> bool {
        match self.rest.strip_prefix(what) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn group(&mut self, depth: usize) -> Result<Node, String> {
        if depth > DEEPEST {
            return Err(format!("is more than {DEEPEST} deep"));
        }
        if !self.take('(') {
            return Err(format!("has no ( before {:?}", self.rest));
        }
        let node = self.inside(depth)?;
        if self.take(')') { Ok(node) } else { Err("has a ( too many".to_owned()) }
    }

    fn inside(&mut self, depth: usize) -> Result<Node, String> {
        if self.take('&') {
            return self.list(depth).map(Node::And);
        }
        if self.take('|') {
            return self.list(depth).map(Node::Or);
        }
        if self.take('!') {
            return self.group(depth + 1).map(|node| Node::Not(Box::new(node)));
        }
        let end = self.rest.find(['(', ')']).unwrap_or(self.rest.len());
        let (item, rest) = self.rest.split_at_checked(end).unwrap_or((self.rest, ""));
        if rest.starts_with('(') {
            return Err(format!("has a ( within {item:?}; in a value it is written \\28"));
        }
        self.rest = rest;
        item_of(item)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, String> {
        let mut nodes = Vec::new();
        loop {
            self.rest = self.rest.trim_start_matches(' ');
            match self.rest.chars().next() {
                Some('(') => nodes.push(self.group(depth + 1)?),
                _ if nodes.is_empty() => return Err("has a list without a filter in it".to_owned()),
                _ => return Ok(nodes),
            }
        }
    }
}

fn item_of(item: &str) -> Result<Node, String> {
    let Some((left, right)) = item.split_once('=') else {
        return Err(format!("has {item:?}, which is no condition; write it as (attribute=value)"));
    };
    if let Some(left) = left.strip_suffix(':') {
        return rule(left, right);
    }
    let (attribute, kind) = match left.strip_suffix(['<', '>', '~']) {
        Some(attribute) => (attribute, left.chars().next_back()),
        None => (left, None),
    };
    let attribute = named(attribute)?;
    Ok(match kind {
        Some('<') => Node::AtMost(attribute, value(right)?),
        Some('>') => Node::AtLeast(attribute, value(right)?),
        Some(_) => Node::Approximate(attribute, value(right)?),
        None if right == "*" => Node::Present(attribute),
        None if right.contains('*') => {
            let parts = right.split('*').map(any_value).collect::<Result<Vec<_>, _>>()?;
            Node::Parts(attribute, parts)
        }
        None => Node::Equal(attribute, any_value(right)?),
    })
}

/// `attribute:dn:rule:=value`
fn rule(left: &str, right: &str) -> Result<Node, String> {
    let mut words = left.split(':');
    let attribute = words.next().filter(|attribute| !attribute.is_empty()).map(named).transpose()?;
    let mut rest: Vec<&str> = words.collect();
    let in_names = rest.first().is_some_and(|word| word.eq_ignore_ascii_case("dn"));
    if in_names {
        rest.remove(0);
    }
    let rule = match rest.as_slice() {
        [] => None,
        [rule] => Some(named(rule)?),
        _ => return Err(format!("has {left:?}, which is no matching rule")),
    };
    if attribute.is_none() && rule.is_none() {
        return Err("has a condition without an attribute".to_owned());
    }
    Ok(Node::Rule { attribute, rule, in_names, value: value(right)? })
}

fn named(attribute: &str) -> Result<String, String> {
    match is_attribute(attribute) {
        true => Ok(attribute.to_owned()),
        false => Err(format!("has {attribute:?}, which is no attribute")),
    }
}

fn value(text: &str) -> Result<Value, String> {
    match text.contains('*') {
        true => Err(format!("has a * in {text:?}, where it is written \\2a")),
        false => any_value(text),
    }
}

/// With what is written as `\2a` (RFC 4515, section 3).
fn any_value(text: &str) -> Result<Value, String> {
    let part = |text: &str| -> Result<Vec<u8>, String> {
        let mut pieces = text.split('\\');
        let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
        for piece in pieces {
            let digits = piece.get(..2).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
            let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
            bytes.push(byte.ok_or_else(|| format!("has a \\ in {text:?} without two hexadecimal digits behind it"))?);
            bytes.extend_from_slice(piece.get(2..).unwrap_or_default().as_bytes());
        }
        Ok(bytes)
    };
    text.split(USER).map(part).collect::<Result<Vec<_>, _>>().map(Value)
}

impl Value {
    fn names_the_user(&self) -> bool {
        self.0.len() > 1
    }

    fn about(&self, user: &str) -> OctetString {
        self.0.join(user.as_bytes()).into()
    }
}

impl Node {
    fn names_the_user(&self) -> bool {
        match self {
            Node::And(nodes) => nodes.iter().any(Node::names_the_user),
            Node::Or(nodes) => nodes.iter().all(Node::names_the_user),
            Node::Not(_) | Node::Present(_) => false,
            Node::Equal(_, value)
            | Node::Approximate(_, value)
            | Node::AtLeast(_, value)
            | Node::AtMost(_, value)
            | Node::Rule { value, .. } => value.names_the_user(),
            Node::Parts(_, values) => values.iter().any(Value::names_the_user),
        }
    }

    fn about(&self, user: &str) -> rasn_ldap::Filter {
        use rasn_ldap::Filter;
        let list = |nodes: &[Node]| SetOf::from_vec(nodes.iter().map(|node| node.about(user)).collect());
        let pair = |attribute: &str, value: &Value| AttributeValueAssertion::new(attribute.into(), value.about(user));
        match self {
            Node::And(nodes) => Filter::And(list(nodes)),
            Node::Or(nodes) => Filter::Or(list(nodes)),
            Node::Not(node) => Filter::Not(Box::new(node.about(user))),
            Node::Present(attribute) => Filter::Present(attribute.as_str().into()),
            Node::Equal(attribute, value) => Filter::EqualityMatch(pair(attribute, value)),
            Node::Approximate(attribute, value) => Filter::ApproxMatch(pair(attribute, value)),
            Node::AtLeast(attribute, value) => Filter::GreaterOrEqual(pair(attribute, value)),
            Node::AtMost(attribute, value) => Filter::LessOrEqual(pair(attribute, value)),
            Node::Parts(attribute, parts) => {
                let last = parts.len().saturating_sub(1);
                let choice = |(at, part): (usize, &Value)| {
                    let value = part.about(user);
                    (!value.is_empty()).then(|| match at {
                        0 => SubstringChoice::Initial(value),
                        at if at == last => SubstringChoice::Final(value),
                        _ => SubstringChoice::Any(value),
                    })
                };
                let substrings: Vec<_> = parts.iter().enumerate().filter_map(choice).collect();
                match substrings.is_empty() {
                    true => Filter::Present(attribute.as_str().into()),
                    false => Filter::Substrings(SubstringFilter::new(attribute.as_str().into(), substrings)),
                }
            }
            Node::Rule { attribute, rule, in_names, value } => Filter::ExtensibleMatch(MatchingRuleAssertion::new(
                rule.as_deref().map(Into::into),
                attribute.as_deref().map(Into::into),
                value.about(user),
                *in_names,
            )),
        }
    }
}
