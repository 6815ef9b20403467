// The whole of signing up: form → POST /v1/registrations → progress → workspace. No dependency.
//
// One filled-in form has one Idempotency-Key. It is kept in sessionStorage with what was written, and later with
// the answer: a retry, a double click and a reload repeat the same request, and a reload goes on where it was.

const meta = (name) => document.querySelector(`meta[name="${name}"]`).content;
const API = meta("tenantry-url").replace(/\/$/, "");
const FORM_KEY = meta("tenantry-form-key");
const STORE = "tenantry-signup";
const STEPS = {
  create_organization: "registering your organization",
  invite_user: "inviting you",
  place: "finding a place",
  create_database: "creating your database",
  create_role: "setting up access",
  seed: "adding what you start with",
  sync_members: "adding people",
  verify: "checking everything",
  activate: "opening the doors",
};
const EVENTS = ["accepted", "step", "waiting", "delayed", "ready", "failed", "retried", "abandoning", "abandoned"];
const AWAY = "No connection. Trying again …";
const LATE = "This is taking longer than usual. It goes on by itself; you can leave this page open.";

const at = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
const title = document.querySelector("h1");

// {key, body}, and once it is answered {links, token}
let signup = JSON.parse(sessionStorage.getItem(STORE));
// ends whatever is under way when somebody starts over
let run = new AbortController();

function keep(value) {
  signup = value;
  if (value) sessionStorage.setItem(STORE, JSON.stringify(value));
  else sessionStorage.removeItem(STORE);
}

function show(heading, ...visible) {
  if (title.textContent !== heading) document.title = title.textContent = heading;
  for (const part of ["form", "progress", "ready", "again", "over"]) at[part].hidden = !visible.includes(part);
  at.notice.hidden = true;
}

function notice(text, url) {
  at.notice.textContent = text;
  if (url) {
    const link = document.createElement("a");
    link.href = `https://${url}`;
    link.textContent = url;
    at.notice.append(" ", link);
  }
  at.notice.hidden = false;
}

function say(step, hint = "") {
  // what did not change is not read out again
  if (at.step.textContent !== step) at.step.textContent = step;
  if (at.hint.textContent !== hint) at.hint.textContent = hint;
}

function showForm() {
  show("Create your workspace", "form");
  at.submit.disabled = false;
}

function showProgress({ step, done = 0, of = 0, isLate, isWaiting }) {
  const { organization } = JSON.parse(signup.body);
  show(`Setting up ${organization.name}`, "progress", "over");
  at.bar.max = of || 1;
  at.bar.value = done;
  const now = STEPS[step] ?? step;
  const hint = isLate ? LATE : isWaiting ? "A step did not work at once. It is being tried again." : "";
  say(now ? `Step ${Math.min(done + 1, of)} of ${of}: ${now} …` : "Getting started …", hint);
}

function showReady({ url }) {
  show("Your workspace is ready", "ready", "over");
  at.workspace.href = `https://${url}`;
  at.workspace.textContent = `Go to ${url}`;
  title.focus();
}

function showFailed(code) {
  show("Your workspace is not ready", "again", "over");
  const reason = code ? ` (${code})` : "";
  notice(`Something went wrong while it was set up${reason}. Nothing is lost: you can try again.`);
}

function showGone() {
  show("Create your workspace", "over");
  notice("We cannot find this sign-up any more.");
}

function pause(seconds, signal) {
  return new Promise((go, stop) => {
    const timer = setTimeout(go, seconds * 1000);
    signal.addEventListener("abort", () => { clearTimeout(timer); stop(signal.reason); });
  });
}

// As long as the server says, otherwise 1, 2, 4 … 30 seconds with jitter.
function delay(answer, attempt) {
  const asked = Number(answer?.headers.get("retry-after"));
  return asked > 0 ? asked + Math.random() : Math.min(30, 2 ** attempt) * (0.5 + Math.random() / 2);
}

// Nothing was decided: the same request may be sent again.
function repeats(status, code) {
  return status === 429 || status >= 500 || code === "idempotency_key_in_use";
}

// What the API says in the end: {status, body, headers}. Whether nobody answers, or only says "later", it is asked again.
async function ask(path, options, signal) {
  for (let attempt = 0; ; attempt++) {
    let answer, body;
    try {
      const limit = AbortSignal.any([signal, AbortSignal.timeout(20_000)]);
      answer = await fetch(API + path, { ...options, signal: limit, cache: "no-store", referrerPolicy: "no-referrer" });
      body = await answer.json();
    } catch {
      signal.throwIfAborted();
      // a proxy's page is no answer of ours, but its status is
      if (!answer || answer.ok) answer = undefined;
    }
    if (answer && !repeats(answer.status, body?.code)) return { status: answer.status, body: body ?? {}, headers: answer.headers };
    say(answer?.status === 429 ? "Many people are signing up right now. One moment …" : AWAY);
    await pause(delay(answer, attempt), signal);
  }
}

async function register(signal) {
  showProgress({});
  title.focus();
  const { status, body } = await ask("/v1/registrations", {
    method: "POST",
    headers: { Authorization: `Bearer ${FORM_KEY}`, "Content-Type": "application/json", "Idempotency-Key": signup.key },
    body: signup.body,
  }, signal);
  if (status === 201 || status === 202) {
    keep({ ...signup, links: body.links, token: body.status_token });
    return follow(signal);
  }
  // what was refused was not kept: the corrected form is another one
  keep(null);
  showForm();
  refused(status, body);
}

function refused(status, { code, errors = [], suggestions = [], url, detail }) {
  let [first] = errors.map((error) => wrong(error.pointer.slice(2), error.detail)).filter(Boolean);
  if (code === "slug_taken") {
    first = wrong("organization/slug", "is taken");
    offer(suggestions);
  } else if (code === "already_signed_up") {
    notice(url ? "You already have a workspace:" : "You already have a workspace. Sign in to it, or use another e-mail address.", url);
  } else if (!first) {
    notice(`This did not work: ${errors[0]?.detail ?? detail ?? `status ${status}`}`);
  }
  first?.focus();
}

// The field of this name with its problem; none if the form has no such field.
function wrong(name, detail) {
  const input = at.form.elements.namedItem(name);
  if (!input) return undefined;
  const error = at[`${input.id}-error`];
  error.textContent = `${input.labels[0].firstChild.textContent.trim()} ${detail}.`;
  error.hidden = false;
  input.setAttribute("aria-invalid", "true");
  return input;
}

function offer(slugs) {
  at.suggestions.replaceChildren(...slugs.map((slug) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = slug;
    button.addEventListener("click", () => {
      at.slug.value = slug;
      right(at.slug);
      at.submit.focus();
    });
    return button;
  }));
  at.suggestions.hidden = slugs.length === 0;
}

function right(input) {
  input.removeAttribute("aria-invalid");
  at[`${input.id}-error`].hidden = true;
  if (input === at.slug) at.suggestions.hidden = true;
}

// Events as they come; where there are none, the status is asked again and again.
function follow(signal) {
  showProgress({});
  const source = new EventSource(`${API}${signup.links.events}?status_token=${encodeURIComponent(signup.token)}`);
  const stop = () => source.close();
  signal.addEventListener("abort", stop);
  let last = {};
  // a proxy that keeps everything back until the end says nothing
  const silent = setTimeout(() => instead(), 5_000);
  const instead = () => {
    clearTimeout(silent);
    stop();
    if (!signal.aborted) poll(signal).catch(ignoreAborted);
  };
  for (const kind of EVENTS) {
    source.addEventListener(kind, ({ data }) => {
      clearTimeout(silent);
      const { state, step, steps_done, steps, is_delayed, code, tenant } = JSON.parse(data);
      last = { state, step, done: steps_done, of: steps, isLate: is_delayed, isWaiting: Boolean(code), code, tenant };
      // may be long ago, before it was tried again: the status knows
      if (state === "failed") instead();
      else if (tell(last)) stop();
    });
  }
  source.addEventListener("open", () => showProgress(last));
  // a broken connection the browser makes anew, and says what it saw last; what is refused it gives up
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) instead();
    else say(at.step.textContent, AWAY);
  });
}

async function poll(signal) {
  for (;;) {
    const { status, body, headers } = await ask(signup.links.self, { headers: { Authorization: `Bearer ${signup.token}` } }, signal);
    if (status !== 200) return showGone();
    const { state, progress, is_delayed, waiting, problem, tenant } = body;
    const { step, done, of } = progress;
    if (tell({ state, step, done, of, isLate: is_delayed, isWaiting: Boolean(waiting), code: problem?.code, tenant })) return undefined;
    await pause(Number(headers.get("retry-after")) || 2, signal);
  }
}

// Shows how far it is; returns whether that was all.
function tell(now) {
  if (now.state === "ready") showReady(now.tenant);
  else if (now.state === "failed") showFailed(now.code);
  else if (now.state === "abandoning" || now.state === "abandoned") showGone();
  else {
    showProgress(now);
    return false;
  }
  return true;
}

function ignoreAborted(error) {
  if (error.name !== "AbortError") throw error;
}

function begin(work) {
  run.abort();
  run = new AbortController();
  Promise.resolve(work(run.signal)).catch(ignoreAborted);
}

function written() {
  const body = { organization: {}, user: {} };
  for (const [name, value] of new FormData(at.form)) {
    const [part, field] = name.split("/");
    if (value.trim()) body[part][field] = value.trim();
  }
  return JSON.stringify(body);
}

at.form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (at.submit.disabled) return;
  at.submit.disabled = true;
  keep({ key: crypto.randomUUID(), body: written() });
  begin(register);
});
at.form.addEventListener("input", (event) => right(event.target));
// what failed is put back to work by registering again, as another request
at.again.addEventListener("click", () => {
  keep({ key: crypto.randomUUID(), body: signup.body });
  begin(register);
});
at.over.addEventListener("click", () => {
  run.abort();
  keep(null);
  at.form.reset();
  showForm();
  at.organization.focus();
});

if (!signup) showForm();
else begin(signup.links ? follow : register);
