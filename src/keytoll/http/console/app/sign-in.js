// Sign in with an access token.

import { signIn } from "./api.js";
import { ThemeButton } from "./frame.js";
import { html, useEffect, useSession, useState } from "./html.js";
import { Mark } from "./icons.js";
import { Field, Problem, Submit, useChange } from "./parts.js";

/** `why` tells, to those who were signed in, why they are not any more. */
export function SignIn({ why }) {
  const { renew } = useSession();
  const [token, setToken] = useState("");
  const [missing, setMissing] = useState(null);
  const { busy, error, run } = useChange();
  useEffect(() => {
    document.title = "Sign in · Keytoll";
  }, []);
  const submit = (event) => {
    event.preventDefault();
    setMissing(problemOf(token.trim()));
    if (problemOf(token.trim())) return;
    run(async () => {
      await signIn(token.trim());
      await renew();
    });
  };
  const control = (attributes) => html`
    <input ...${attributes} type="password" class="mono" autocomplete="current-password" spellcheck=${false} placeholder="gw-at-…"
      value=${token} onInput=${(event) => setToken(event.target.value)} />
  `;
  return html`
    <main class="sign-in">
      <div class="corner"><${ThemeButton} /></div>
      <div class="card">
        <p class="brand"><${Mark} />Keytoll</p>
        <h1 tabindex="-1">Sign in</h1>
        <p class="lead">Manage your API keys, and see what they spend.</p>
        ${why && html`<p class="notice" role="status">${why}</p>`}
        <form onSubmit=${submit} novalidate>
          <${Field} label="Access token" problem=${missing} control=${control} />
          <${Problem} error=${error} />
          <${Submit} busy=${busy}>Sign in<//>
        </form>
        <details>
          <summary>Where do I get an access token?</summary>
          <p>
            Whoever operates this gateway gives you your first one, with <code>keytoll access-token reset NAME</code>. It
            starts with <code>gw-at-</code>. Later you can replace it yourself, under Access Token.
          </p>
          <p>An API key (<code>gw-sk-…</code>) calls models. It can't sign in here.</p>
        </details>
      </div>
    </main>
  `;
}

function problemOf(token) {
  if (!token) return "Enter your access token.";
  if (token.startsWith("gw-sk-")) return "This is an API key. It calls models; to sign in, use your access token, which starts with gw-at-.";
  return null;
}
