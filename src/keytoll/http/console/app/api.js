// The one way to the API. The browser sends the session's cookie and the page's origin by itself.

const ROOT = "/api/v1";

/** An answer that is an error: its HTTP status, its code, and the field at fault, if one is. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = null, param = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
  }

  /** The message without the name of the field, for where it stands beside that field. */
  get beside() {
    return this.param && this.message.startsWith(`${this.param}: `) ? this.message.slice(this.param.length + 2) : this.message;
  }
}

let sessionEnded = () => {};
let refused = () => {};
let notEverywhere = () => {};

/** Have `listener` called when an answer tells that nobody is signed in any more. */
export function onSessionEnded(listener) {
  sessionEnded = listener;
}

/** Have `listener` called when an answer refuses something, or doesn't find it: what one may do may have changed. */
export function onRefused(listener) {
  refused = listener;
}

/** Have `listener` called when a change is not in force at all replicas yet, with an array of those where it isn't. */
export function onNotEverywhere(listener) {
  notEverywhere = listener;
}

export const get = (path, query, signal) => call("GET", path, { query, signal });
export const post = (path, body, options) => call("POST", path, { body, ...options });
export const put = (path, body) => call("PUT", path, { body });
export const patch = (path, body, query) => call("PATCH", path, { body, query });
export const remove = (path) => call("DELETE", path);

export const signIn = (accessToken) => call("POST", "/session", { body: { access_token: accessToken }, quiet: true });
export const signOut = () => call("DELETE", "/session", { quiet: true });
export const whoAmI = () => call("GET", "/me", { quiet: true });

/** All items of a list, page by page, at most `most`; `each` is told how many there are so far. */
export async function all(path, query, { most = Infinity, each = () => {} } = {}) {
  const found = [];
  let after = null;
  do {
    const page = await get(path, { ...query, after, limit: 1000 });
    found.push(...page.data);
    each(found.length);
    after = page.next;
  } while (after !== null && found.length < most);
  return found;
}

/** The address of a path of the API, with what of the query is neither null nor empty. */
export function address(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const text = new URLSearchParams(given).toString();
  return ROOT + path + (text && `?${text}`);
}

/** Fetch an answer as it is. Throws ApiError for every other than a good one. */
export async function fetched(method, path, { body, query, once, signal, accept = "application/json", quiet = false } = {}) {
  const headers = { accept };
  if (body !== undefined) headers["content-type"] = "application/json";
  if (once) headers["idempotency-key"] = once;
  const response = await reach(address(path, query), { method, headers, signal, body: body && JSON.stringify(body) });
  if (response.ok) return response;
  if (response.status === 401 && !quiet) sessionEnded();
  if (response.status === 403 || response.status === 404) refused();
  throw await errorOf(response);
}

async function call(method, path, options) {
  const response = await fetched(method, path, options);
  const answer = response.status === 204 ? null : await response.json();
  if (response.status === 202) notEverywhere(answer.not_yet);
  return answer;
}

async function reach(url, options) {
  try {
    return await fetch(url, { ...options, credentials: "same-origin", cache: "no-store", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("Keytoll can't be reached. Check your connection, then try again.");
  }
}

async function errorOf(response) {
  const { error } = await response.json().catch(() => ({ error: null }));
  const wait = response.headers.get("retry-after");
  const again = response.status === 429 && wait ? ` Try again in ${wait} s.` : "";
  return new ApiError((error?.message ?? `The answer was an error, ${response.status}.`) + again, { ...error, status: response.status });
}
