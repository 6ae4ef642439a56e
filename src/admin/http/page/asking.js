// What the page knows, and how it asks the instance.

/** The last answer (`null` before the first), who asks, what is shown of the past, and what he has proved himself with. */
export const state = {
  shown: null,
  caller: { name: "", role: "viewer" },
  span: "10m",
  /** Kept here and nowhere else: gone with the page. */
  credentials: null,
};

export class Refused extends Error {
  constructor(status, answer) {
    super([answer.error ?? `status ${status}`, answer.hint].filter(Boolean).join("\n"));
    this.status = status;
  }
}

/** User and password as HTTP's Basic authentication has them, in UTF-8. */
export function basic(user, password) {
  const bytes = new TextEncoder().encode(`${user}:${password}`);
  return `Basic ${btoa(String.fromCharCode(...bytes))}`;
}

export async function ask(path, { sql, shown = state.credentials, signal } = {}) {
  const headers = { "X-Requested-With": "forebay" };
  if (shown) headers.Authorization = shown;
  const request = { headers, signal, cache: "no-store" };
  if (sql !== undefined) {
    headers["Content-Type"] = "application/json";
    Object.assign(request, { method: "POST", body: JSON.stringify({ sql }) });
  }
  const response = await fetch(`api/v1/${path}`, request);
  const answer = await response.json().catch(() => ({ error: `an answer that is not JSON, status ${response.status}` }));
  if (!response.ok) throw new Refused(response.status, answer);
  return answer;
}

/** What the instance said to a command, in its own words. */
export function told(answer) {
  const notices = answer.notices.map((notice) => [notice.message, notice.detail].filter(Boolean).join(": "));
  return notices.length ? notices.join("\n") : answer.tag;
}

/** Something has changed: the page looks at once. */
export function lookAgain() {
  document.dispatchEvent(new Event("lookagain"));
}
