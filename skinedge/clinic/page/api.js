// What the page asks the workstation. Nothing else is asked of anybody.

/** An answer that is none; `code` is stable and has words under "error.CODE". */
export class ApiError extends Error {
  /**
   * @param {string} code
   * @param {string} [detail] the workstation's own sentence, in English
   * @param {number} [wait] seconds after which to try again
   */
  constructor(code, detail = "", wait = 0) {
    super(detail || code);
    this.code = code;
    this.detail = detail;
    this.wait = wait;
  }
}

/** @typedef {{csrf: string, login: "off" | "needed" | "done", operator: string | null, role: string | null}} Session */

let csrf = "";
/** @type {(session: Session) => void} */
let told = () => {};
/** @type {() => Promise<boolean>} */
let logIn = async () => false;

/**
 * @param {(session: Session) => void} onSession is told whenever there is a new one
 * @param {() => Promise<boolean>} onLogin asks who is there; false when nobody says
 */
export function listen(onSession, onLogin) {
  told = onSession;
  logIn = onLogin;
}

/** Begin a session, or go on with one. */
export const begin = async () => take(await send("GET", "/api/session"));

/**
 * @param {string} name
 * @param {string} passphrase
 */
export const enter = async (name, passphrase) => take(await renewed("POST", "/api/login", { name, passphrase }));

export const leave = async () => take(await renewed("POST", "/api/logout", {}));

/**
 * Forget a photograph. Nobody is asked to log in for it: a session that ended has forgotten its photographs.
 * @param {string} id
 */
export const forget = (id) => send("DELETE", `/api/pictures/${id}`);

/**
 * One request; a session that ended is begun again, and who must log in is asked to.
 * @param {string} method
 * @param {string} path
 * @param {Blob | object} [body]
 * @param {AbortSignal} [signal]
 * @returns {Promise<Response>}
 */
export async function call(method, path, body, signal) {
  for (let again = 0; ; again++) {
    try {
      return await renewed(method, path, body, signal);
    } catch (error) {
      if (!(error instanceof ApiError) || error.code !== "login_needed" || again >= 2 || !(await logIn())) throw error;
    }
  }
}

/**
 * One request; a session that ended is begun again, once.
 * @param {string} method
 * @param {string} path
 * @param {Blob | object} [body]
 * @param {AbortSignal} [signal]
 */
async function renewed(method, path, body, signal) {
  try {
    return await send(method, path, body, signal);
  } catch (error) {
    if (!(error instanceof ApiError) || (error.code !== "csrf" && error.code !== "session_needed")) throw error;
  }
  await begin();
  return send(method, path, body, signal);
}

/** @param {Response} response */
async function take(response) {
  /** @type {Session} */
  const session = await response.json();
  csrf = session.csrf;
  told(session);
  return session;
}

/**
 * @param {string} method
 * @param {string} path
 * @param {Blob | object} [body]
 * @param {AbortSignal} [signal]
 */
async function send(method, path, body, signal) {
  const raw = body instanceof Blob;
  /** @type {Record<string, string>} */
  const headers = method === "GET" ? {} : { "X-Skinedge-CSRF": csrf };
  if (body) headers["Content-Type"] = raw ? "application/octet-stream" : "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, body: raw ? body : body && JSON.stringify(body), signal, cache: "no-store", keepalive: method === "DELETE" });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError("offline");
  }
  if (response.ok) return response;
  throw await refusal(response);
}

/** @param {Response} response */
async function refusal(response) {
  const wait = Number(response.headers.get("Retry-After")) || 0;
  try {
    return fromBody(await response.json(), wait);
  } catch {
    return new ApiError("internal", `HTTP ${response.status}`, wait);
  }
}

/**
 * @param {{error: {message: string, code: string, hint?: string}}} body
 * @param {number} [wait]
 */
export function fromBody({ error }, wait = 0) {
  return new ApiError(error.code, [error.message, error.hint].filter(Boolean).join(" "), wait);
}

/**
 * The events of a stream (server-sent events, as far as this page needs them).
 * @param {Response} response
 * @returns {AsyncGenerator<{name: string, data: any}>}
 */
export async function* events(response) {
  if (!response.body) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    for (let end = held.indexOf("\n\n"); end >= 0; end = held.indexOf("\n\n")) {
      const lines = held.slice(0, end).split("\n");
      held = held.slice(end + 2);
      const name = lines.find((l) => l.startsWith("event: "))?.slice(7);
      const data = lines.filter((l) => l.startsWith("data: ")).map((l) => l.slice(6));
      if (name && data.length) yield { name, data: JSON.parse(data.join("\n")) };
    }
  }
}
