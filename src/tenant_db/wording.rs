//! How a server words what was written down for it. Pure.
//!
//! Guarantees: an expression, and the same one after a dump was restored (as `pg_upgrade` does), come out alike, where
//! the server is known to word them otherwise: a cast of an array is one of each element then. `status in ('a', 'b')`
//! of a `varchar` is such an expression.

use std::borrow::Cow;

/// A cast of an array constructor may follow.
const BEGIN: &str = "(ARRAY[";

/// The text with each cast of an array constructor as casts of its elements.
pub(super) fn settled(text: &str) -> Cow<'_, str> {
    let mut settled = Cow::Borrowed(text);
    // a cast of a cast is one when that is settled
    while let Some(further) = settled_once(&settled) {
        settled = Cow::Owned(further);
    }
    settled
}

/// `None` where nothing is to be done.
fn settled_once(text: &str) -> Option<String> {
    if !text.contains(BEGIN) {
        return None;
    }
    let (mut settled, mut done, mut quote) = (String::new(), 0, None);
    for (at, c) in text.char_indices() {
        if at < done {
            continue;
        }
        quote = quote_after(quote, c);
        if quote.is_none()
            && let Some(rest) = text[at..].strip_prefix(BEGIN)
            && let Some(array) = read_array(rest)
        {
            settled.push_str(&text[done..at]);
            settled.push_str(&cast_all(&array.elements, array.of));
            done = text.len() - array.rest.len();
        }
    }
    (done > 0).then(|| settled + &text[done..])
}

/// The quote that is open after this character. One within a text is doubled: the text ends, and another one begins.
fn quote_after(quote: Option<char>, c: char) -> Option<char> {
    match (quote, c) {
        (None, '\'' | '"') => Some(c),
        (Some(open), c) if c == open => None,
        (quote, _) => quote,
    }
}

fn cast_all(elements: &[&str], of: &str) -> String {
    let cast = |element: &&str| match element.strip_prefix("ARRAY[").and_then(read_elements) {
        // of an array with more dimensions it is those of the innermost
        Some((inner, "")) => cast_all(&inner, of),
        _ => format!("({})::{of}", settled(element)),
    };
    let elements: Vec<String> = elements.iter().map(cast).collect();
    format!("ARRAY[{}]", elements.join(", "))
}

/// An array constructor that is cast, without its beginning.
struct Array<'a> {
    elements: Vec<&'a str>,
    /// Type that its elements are cast to.
    of: &'a str,
    /// What follows.
    rest: &'a str,
}

fn read_array(text: &str) -> Option<Array<'_>> {
    let (elements, rest) = read_elements(text)?;
    let rest = rest.strip_prefix(")::")?;
    let (of, rest) = rest.split_once("[]")?;
    let is_of_type = |c: char| c.is_alphanumeric() || "_ .,\"()".contains(c);
    of.chars()
        .all(is_of_type)
        .then_some(Array { elements, of, rest })
}

/// The elements up to the closing bracket, and what follows that.
fn read_elements(text: &str) -> Option<(Vec<&str>, &str)> {
    let (mut elements, mut begin, mut depth, mut quote) = (Vec::new(), 0, 0_u32, None);
    for (at, c) in text.char_indices() {
        quote = quote_after(quote, c);
        match c {
            _ if quote.is_some() => {}
            '(' | '[' => depth += 1,
            ']' if depth == 0 => {
                elements.push(text[begin..at].trim_start());
                return Some((elements, &text[at + 1..]));
            }
            ')' | ']' => depth = depth.checked_sub(1)?,
            ',' if depth == 0 => {
                elements.push(text[begin..at].trim_start());
                begin = at + 1;
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cast_of_an_array_is_one_of_each_element() {
        let written = "CHECK (((status)::text = ANY ((ARRAY['a, ''b'']'::character varying, 'c'::character varying])::text[])))";
        let restored = "CHECK (((status)::text = ANY (ARRAY[('a, ''b'']'::character varying)::text, ('c'::character varying)::text])))";
        assert_eq!(settled(written), restored);
        assert_eq!(settled(restored), restored);
    }

    #[test]
    fn each_of_several_is_settled_within_others_and_after_them() {
        for (written, restored) in [
            (
                "((ARRAY[(ARRAY[1])::bigint[], x])::numeric(9,2)[]) or (ARRAY[y])::text[]",
                "(ARRAY[(ARRAY[(1)::bigint])::numeric(9,2), (x)::numeric(9,2)]) or ARRAY[(y)::text]",
            ),
            ("((ARRAY[a])::b[])::c[]", "ARRAY[((a)::b)::c]"),
            (
                "(ARRAY[ARRAY[a, b], ARRAY[c, d]])::text[]",
                "ARRAY[ARRAY[(a)::text, (b)::text], ARRAY[(c)::text, (d)::text]]",
            ),
        ] {
            assert_eq!(settled(written), restored);
            assert_eq!(settled(restored), restored);
        }
    }

    #[test]
    fn what_is_none_stays() {
        for other in [
            "",
            "(ARRAY[1, 2])",
            "(ARRAY['a",
            "(ARRAY[1))::int[]",
            "('(ARRAY['::text)",
            "'(ARRAY[1,  2])::int[]'::text",
            "\"(ARRAY[1])::int[]\" = 1",
        ] {
            assert_eq!(settled(other), other);
        }
        let many = "x = ANY (ARRAY['a'::text]) or ".repeat(10_000);
        assert_eq!(settled(&many), many);
    }
}
