//! The changes that an agent's owner makes to the headers of requests.

use http::header::{HeaderMap, HeaderName};

use crate::http1::SetHeader;
use crate::http1::fields::remove_spellings;

/// All changes: what is removed goes first, and what is set takes the place of what was there, in all its spellings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HeaderRewrite {
    pub(crate) set: Vec<SetHeader>,
    pub(crate) remove: Vec<HeaderName>,
}

impl HeaderRewrite {
    pub(super) fn apply(&self, headers: &mut HeaderMap) {
        for name in self.remove.iter().chain(self.set.iter().map(|header| &header.name)) {
            remove_spellings(headers, name);
        }
        for SetHeader { name, value } in &self.set {
            headers.append(name, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::http1::header_name;

    #[test]
    fn what_is_set_takes_the_place_of_what_was_there() {
        let edits = HeaderRewrite {
            set: ["X-A: 1", "x-a:2", "X-New:  a b "].map(|text| text.parse().unwrap()).into(),
            remove: vec![header_name("Cookie").unwrap()],
        };
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("x-a", "old"), ("x_a", "forged"), ("cookie", "a=1"), ("cookie", "b=2"), ("x-kept", "yes")]
        {
            headers.append(name, HeaderValue::from_static(value));
        }
        edits.apply(&mut headers);
        let left: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {value:?}")).collect();
        assert_eq!(left.len(), 4, "{left:?}");
        assert_eq!(headers.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(
            (&headers["x-new"], &headers["x-kept"]),
            (&"a b".parse().unwrap(), &"yes".parse().unwrap())
        );
    }
}
