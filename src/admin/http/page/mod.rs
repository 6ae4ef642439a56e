//! The status page: files that hold no data, and one answer with everything that they show.
//!
//! The files are the same for everybody and are in the binary; what they show is fetched by them, under the rules of
//! `access`.

mod overview;

use std::sync::LazyLock;

use hyper::header::{HeaderMap, IF_NONE_MATCH};
use sha2::{Digest, Sha256};

pub(super) use self::overview::overview;
use super::answer::{self, Answer};

/// One file of the page.
pub(super) struct File {
    path: &'static str,
    kind: &'static str,
    text: &'static str,
    /// In quotes.
    tag: String,
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

static FILES: LazyLock<[File; 8]> = LazyLock::new(|| {
    [
        File::new("/", HTML, include_str!("index.html")),
        File::new("/page.css", CSS, include_str!("page.css")),
        File::new("/page.js", SCRIPT, include_str!("page.js")),
        File::new("/asking.js", SCRIPT, include_str!("asking.js")),
        File::new("/elements.js", SCRIPT, include_str!("elements.js")),
        File::new("/orders.js", SCRIPT, include_str!("orders.js")),
        File::new("/plots.js", SCRIPT, include_str!("plots.js")),
        File::new("/sections.js", SCRIPT, include_str!("sections.js")),
    ]
});

/// The file at this path.
pub(super) fn file(path: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.path == path)
}

impl File {
    fn new(path: &'static str, kind: &'static str, text: &'static str) -> Self {
        let digest = Sha256::digest(text.as_bytes());
        let tag: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        File { path, kind, text, tag: format!("\"{tag}\"") }
    }

    /// The file, or that the reader has it already.
    pub(super) fn answer(&self, headers: &HeaderMap) -> Answer {
        let known = headers.get(IF_NONE_MATCH).and_then(|tags| tags.to_str().ok()).unwrap_or_default();
        let is_known = known.split(',').any(|tag| tag.trim().trim_start_matches("W/") == self.tag);
        answer::tagged(self.kind, self.text, &self.tag, is_known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_hold_no_script_or_style_of_their_own_and_lead_nowhere_else() {
        for file in FILES.iter() {
            for forbidden in
                ["http:", "https:", "//cdn", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("]
            {
                // The namespace of SVG is a name and is not fetched.
                let text = file.text.replace("http://www.w3.org/2000/svg", "");
                assert!(!text.contains(forbidden), "{} has {forbidden}", file.path);
            }
        }
        let html = FILES[0].text;
        assert!(!html.contains("<style") && !html.contains(" style=") && !html.contains(" onclick="));
        assert_eq!(html.matches("<script").count(), 1);
    }

    #[test]
    fn who_has_the_file_is_told_so() {
        let file = file("/page.js").expect("there");
        let mut headers = HeaderMap::new();
        assert_eq!(file.answer(&headers).status(), 200);
        headers.insert(IF_NONE_MATCH, format!("\"x\", W/{}", file.tag).parse().unwrap());
        assert_eq!(file.answer(&headers).status(), 304);
        headers.insert(IF_NONE_MATCH, "\"x\"".parse().unwrap());
        assert_eq!(file.answer(&headers).status(), 200);
    }
}
