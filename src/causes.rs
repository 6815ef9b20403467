//! An error with its causes, as people read it.
//!
//! Guarantees: every cause is there once; of the server's errors, its own message and SQLSTATE.

/// An error and its causes, in one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = told(error);
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = told(cause);
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        // the driver's error repeats the server's below it
        source = if cause.is::<sqlx::Error>() && is_of_server(cause) {
            None
        } else {
            cause.source()
        };
    }
    text
}

fn is_of_server(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(
        error.downcast_ref::<sqlx::Error>(),
        Some(sqlx::Error::Database(_))
    )
}

/// The server's own message and SQLSTATE; the driver would add a line of the server's source code.
fn told(error: &(dyn std::error::Error + 'static)) -> String {
    match error.downcast_ref::<sqlx::Error>() {
        Some(sqlx::Error::Database(error)) => match error.code() {
            Some(code) => format!("{} (SQLSTATE {code})", error.message()),
            None => error.message().to_owned(),
        },
        _ => error.to_string(),
    }
}
