//! Reads PostgreSQL's parse tree: is it one statement that only reads, and what does it name?
//!
//! The tree is searched in its printed form, so that no kind of node can be forgotten.

/// What PostgreSQL's grammar made of a text that was called a read.
pub struct Tree {
    printed: String,
}

impl Tree {
    /// `None` if the grammar refuses the text.
    pub fn parse(text: &str, options: pg_query::ParserOptions) -> Option<Self> {
        let parsed = pg_query::parse(text, options).ok()?;
        Some(Self { printed: format!("{:?}", parsed.protobuf) })
    }

    /// How many statements the text holds.
    pub fn statements(&self) -> usize {
        self.printed.matches("RawStmt {").count()
    }

    /// Whether a statement of this kind of node is in it.
    pub fn has(&self, what: &str) -> bool {
        self.printed.contains(what)
    }

    /// What in it is no read, if anything.
    pub fn objection(&self) -> Option<&'static str> {
        const FORBIDDEN: &[&str] = &[
            "InsertStmt(",
            "UpdateStmt(",
            "DeleteStmt(",
            "MergeStmt(",
            "LockingClause(",
            "into_clause: Some(",
            "IntoClause {",
            "is_from: true",
            "is_program: true",
            "defname: \"analyze\"",
            "defname: \"analyse\"",
        ];
        const ALLOWED: &[&str] =
            &["SelectStmt(SelectStmt {", "VariableShowStmt(", "ExplainStmt(ExplainStmt {", "CopyStmt(CopyStmt {"];
        if self.statements() != 1 {
            return Some("not one statement");
        }
        let top = self.printed.split_once("RawStmt { stmt: Some(Node { node: Some(").map_or("", |(_, top)| top);
        if !ALLOWED.iter().any(|allowed| top.starts_with(allowed)) {
            return Some("another kind of statement");
        }
        if top.starts_with("ExplainStmt")
            && !top.starts_with("ExplainStmt(ExplainStmt { query: Some(Node { node: Some(SelectStmt(")
        {
            return Some("EXPLAIN of something else");
        }
        if top.starts_with("CopyStmt") && !self.printed.contains("filename: \"\"") {
            return Some("COPY to a file");
        }
        FORBIDDEN.iter().copied().find(|forbidden| self.printed.contains(forbidden))
    }

    /// The functions called, each with its schema if one is written.
    pub fn functions(&self) -> Vec<Vec<&str>> {
        self.lists("funcname: [")
    }

    /// The operators called.
    pub fn operators(&self) -> Vec<Vec<&str>> {
        let mut all = self.lists("oper_name: [");
        all.extend(self.lists("use_op: ["));
        // Both are empty where the word stands for the operator.
        all.retain(|list| !list.is_empty());
        let mut rest = self.printed.as_str();
        while let Some((_, tail)) = rest.split_once("AExpr(AExpr { kind: ") {
            let Some((_, names)) = tail.split_once("name: [") else { break };
            all.push(strings(names));
            rest = tail;
        }
        all
    }

    /// Relations, and parts of qualified names, where a function of a row may stand.
    pub fn names(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for key in ["relname: \"", "schemaname: \""] {
            names.extend(self.printed.split(key).skip(1).filter_map(|tail| tail.split('"').next()));
        }
        for list in self.lists("fields: [").into_iter().chain(self.lists("indirection: [")) {
            names.extend(list);
        }
        names
    }

    fn lists(&self, key: &str) -> Vec<Vec<&str>> {
        self.printed.split(key).skip(1).map(strings).collect()
    }
}

/// The strings of a printed list of names, up to its closing bracket.
fn strings(printed: &str) -> Vec<&str> {
    let list = printed.split(']').next().unwrap_or_default();
    list.split("sval: \"").skip(1).filter_map(|tail| tail.split('"').next()).collect()
}
