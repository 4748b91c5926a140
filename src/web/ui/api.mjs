/** Asks spotter's HTTP API; keeps the token. It shows nothing. */

const KEY = 'spotter-token';

/** Why spotter did not serve a request. */
export class Refused extends Error {
  /** @param {number} status @param {string} code @param {string} message */
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }

  /** Whether another token would help. */
  get wantsToken() {
    return this.status === 401 || this.status === 403;
  }
}

/** Takes `?token=` out of the page's address, where shoulders and screenshots would see it. */
export function takeToken() {
  const here = new URL(location.href);
  const token = here.searchParams.get('token');
  if (token === null) return;
  // One that is kept on this device stays.
  sessionStorage.setItem(KEY, token);
  here.searchParams.delete('token');
  history.replaceState(null, '', here);
}

/**
 * Keeps the token until the tab is closed, or on this device: whoever uses it then may look.
 * @param {string} token @param {'tab'|'device'} where
 */
export function setToken(token, where = 'tab') {
  sessionStorage.setItem(KEY, token);
  if (where === 'device') localStorage.setItem(KEY, token);
  else localStorage.removeItem(KEY);
}

/** Whether a token is kept on this device. */
export const isKept = () => localStorage.getItem(KEY) !== null;

export function forgetToken() {
  sessionStorage.removeItem(KEY);
  localStorage.removeItem(KEY);
}

const token = () => sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY);

/**
 * An address for what cannot send headers: EventSource, WebSocket, video.
 * @param {string} path @param {Record<string, string>} query
 */
export function address(path, query = {}) {
  const url = new URL(path, location.href);
  for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
  if (token()) url.searchParams.set('token', token());
  return url;
}

/** The same as a WebSocket's address. @param {string} path */
export function socketAddress(path) {
  const url = address(path);
  url.protocol = url.protocol.replace('http', 'ws');
  return url;
}

/** What shows who we are, for requests that `ask` cannot make. @returns {Record<string, string>} */
export const authorization = () => (token() ? { Authorization: `Bearer ${token()}` } : {});

/** @param {string} path @param {RequestInit} options @returns {Promise<Response>} throws `Refused` or a network error */
export async function ask(path, options = {}) {
  const headers = new Headers({ ...options.headers, ...authorization() });
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const { code = 'http', message = `spotter answered ${response.status}` } = body.error ?? {};
  throw new Refused(response.status, code, message);
}

/** @param {string} path */
export async function askJson(path) {
  // A box that was switched off answers nothing at all, for minutes.
  return (await ask(path, { signal: AbortSignal.timeout(5000) })).json();
}

/** @param {string} stream @param {string} tail */
export const ofStream = (stream, tail) => `/api/v1/streams/${encodeURIComponent(stream)}/${tail}`;
