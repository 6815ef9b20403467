//! How a server words what was written down for it. Pure.
//!
//! Guarantees: an expression, and the same one after a dump was restored (as `pg_upgrade` does), come out alike, where
//! the server is known to word them otherwise: a cast of an array is one of each element then. `status in ('a', 'b')`
//! of a `varchar` is such an expression.

/// The line with each cast of an array constructor as casts of its elements.
pub(super) fn settled(line: &str) -> String {
    let Some((before, rest)) = line.split_once(BEGIN) else {
        return line.to_owned();
    };
    match read_array(rest) {
        Some(array) => {
            let cast = |element: &&str| format!("({})::{}", settled(element), array.of);
            let elements: Vec<String> = array.elements.iter().map(cast).collect();
            format!(
                "{before}ARRAY[{}]{}",
                elements.join(", "),
                settled(array.rest)
            )
        }
        None => format!("{before}{BEGIN}{}", settled(rest)),
    }
}

const BEGIN: &str = "(ARRAY[";

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
        match (quote, c) {
            // a quote within a text is doubled: the text ends, and another one begins
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, '(' | '[') => depth += 1,
            (None, ']') if depth == 0 => {
                elements.push(text[begin..at].trim_start());
                return Some((elements, &text[at + 1..]));
            }
            (None, ')' | ']') => depth = depth.checked_sub(1)?,
            (None, ',') if depth == 0 => {
                elements.push(text[begin..at].trim_start());
                begin = at + 1;
            }
            (Some(_) | None, _) => {}
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
    fn each_of_several_is_settled_and_what_is_none_stays() {
        assert_eq!(
            settled("((ARRAY[(ARRAY[1])::bigint[], x])::numeric(9,2)[]) or (ARRAY[y])::text[]"),
            "(ARRAY[(ARRAY[(1)::bigint])::numeric(9,2), (x)::numeric(9,2)]) or ARRAY[(y)::text]"
        );
        for other in [
            "",
            "(ARRAY[1, 2])",
            "(ARRAY['a",
            "(ARRAY[1))::int[]",
            "('(ARRAY['::text)",
        ] {
            assert_eq!(settled(other), other);
        }
    }
}
