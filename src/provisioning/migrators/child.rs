//! A program of the user's as a child process.
//!
//! Guarantees: it ends with us. A small shell leads its process group and holds the reading end of a pipe
//! of which we hold the only writing end; when that closes, because the attempt was cut off or because we
//! were killed, the shell kills the whole group. No shell reads the command line: the program gets its
//! arguments as they are. The environment is what is given here and nothing else; standard input is empty;
//! of the output the last 64 KiB are kept, without the secrets.

use std::{
    io::PipeWriter,
    path::Path,
    pin::pin,
    process::{ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, waitpgid};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
};

/// How much of each stream is kept.
const KEPT_BYTES: usize = 64 * 1024;

/// Fewer characters of a secret say nothing, and are often there by chance.
const SHORTEST_PART: usize = 4;

/// How long to wait for output after the program has ended: somebody outside the group may hold the stream.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Job 1 waits for the pipe, job 2 is the program. `exec` takes no builtin and no function for a program.
const GUARD: &str = r#"
exec 3<&0 </dev/null
(while read -r _; do :; done; kill -KILL 0) <&3 >/dev/null 2>&1 &
watcher=$!
(exec "$@") 3<&- &
wait $!
code=$?
kill -KILL $watcher
wait $watcher 2>/dev/null
exit $code
"#;

/// What is run.
pub struct Program<'a> {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Where it runs.
    pub directory: &'a Path,
    /// All that it gets.
    pub environment: Vec<(String, String)>,
    /// What must not be seen in its output.
    pub secret: &'a str,
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; above 128 where a signal ended it.
    pub code: i32,
    /// The end of what it said on standard output and standard error.
    pub output: String,
    /// The end of standard error alone.
    pub errors: String,
}

/// Runs the program to its end. Dropping the future kills it, with everything that it started.
pub async fn run(program: Program<'_>) -> std::io::Result<Ended> {
    bury_the_dead();
    let (end, leash) = std::io::pipe()?;
    let mut child = Command::new("/bin/sh")
        .args(["-c", GUARD, "tenantry-migrator"])
        .args(&program.argv)
        .current_dir(program.directory)
        .env_clear()
        .envs(program.environment)
        .stdin(end)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let leash = Leash {
        _pipe: leash,
        group,
    };
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let status = {
        let streams = (child.stdout.take(), child.stderr.take());
        let mut reading = pin!(async {
            tokio::join!(
                keep_end(streams.0, &mut output),
                keep_end(streams.1, &mut errors)
            )
        });
        let mut is_read = false;
        let status = tokio::select! {
            status = child.wait() => status?,
            _ = &mut reading => {
                is_read = true;
                child.wait().await?
            }
        };
        // what the program left running ends as well, and with it the streams
        drop(leash);
        if !is_read {
            let _ = tokio::time::timeout(LAST_WORDS, reading).await;
        }
        status
    };
    let text = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).replace(program.secret, "***");
        // the control database keeps what it said, and no text there has a NUL
        without_parts_of(program.secret, &text).replace('\0', "\u{fffd}")
    };
    let errors = text(&errors);
    Ok(Ended {
        code: code(status),
        output: format!("{}{errors}", text(&output)),
        errors,
    })
}

/// The text without the parts of a secret that was cut in two, by our bound or by the program's end: its last part at
/// the beginning, its first part at the end.
fn without_parts_of<'a>(secret: &str, text: &'a str) -> &'a str {
    let cuts = || (0..secret.len()).filter(|at| secret.is_char_boundary(*at));
    let last = cuts().map(|at| &secret[at..]);
    let first = cuts().rev().map(|at| &secret[..at]);
    let is_told_by = |part: &&str| part.len() >= SHORTEST_PART;
    let text = last
        .take_while(is_told_by)
        .find_map(|part| text.strip_prefix(part))
        .unwrap_or(text);
    first
        .take_while(is_told_by)
        .find_map(|part| text.strip_suffix(part))
        .unwrap_or(text)
}

/// The end of the pipe that the guard waits for, and the group that ends with it.
struct Leash {
    _pipe: PipeWriter,
    group: Option<Pid>,
}

impl Drop for Leash {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // none is left where the program ended on its own and left nothing running
            let _ = kill_process_group(group, Signal::KILL);
            if std::process::id() == 1 {
                let mut groups = ENDED.lock().unwrap_or_else(PoisonError::into_inner);
                groups.push(group);
            }
        }
    }
}

/// Groups that ended while we are process 1, as in a container: what dies in them is waited for by nobody else.
static ENDED: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Waits for what is dead in these groups; none of them is forgotten while something of it lives.
fn bury_the_dead() {
    let mut groups = ENDED.lock().unwrap_or_else(PoisonError::into_inner);
    groups.retain(|group| {
        loop {
            match waitpgid(*group, WaitOptions::NOHANG) {
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    });
}

fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    let by_signal = || 128 + status.signal().unwrap_or_default();
    status.code().unwrap_or_else(by_signal)
}

/// Reads to the end and keeps the last part.
async fn keep_end(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut stream) = stream else {
        return;
    };
    // on the heap: the futures that hold it nest deep
    let mut buffer = vec![0; 8192];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..count]);
        if kept.len() > 2 * KEPT_BYTES {
            kept.drain(..kept.len() - KEPT_BYTES);
        }
    }
    kept.drain(..kept.len().saturating_sub(KEPT_BYTES));
}
