//! What the documents tell people to type.

/// The statement in a document's block of SQL that has this text in it.
pub fn statement(document: &str, of: &str) -> String {
    let document = std::fs::read_to_string(document).unwrap();
    // a block in a list is indented
    let mut blocks = document.split("```sql\n").skip(1);
    let block = blocks.find_map(|rest| rest.split("```").next().filter(|it| it.contains(of)));
    block.unwrap().trim().trim_end_matches(';').to_owned()
}
