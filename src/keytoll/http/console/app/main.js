// The console: who is signed in, which page is shown, and the frame around it.

import { get, onNotEverywhere, onRefused, onSessionEnded, signOut, whoAmI } from "./api.js";
import { Boundary, html, render, Session, useEffect, useMemo, useRef, useState } from "./html.js";
import { Frame } from "./frame.js";
import { Failed, Loading } from "./parts.js";
import { pageOf } from "./pages.js";
import { useRoute } from "./route.js";
import { SignIn } from "./sign-in.js";
import { applyTheme } from "./theme.js";

function Console() {
  const [state, setState] = useState({ is: "starting" });
  const [said, setSaid] = useState({ text: "", number: 0 });
  const say = (text) => setSaid(({ number }) => ({ text, number: number + 1 }));
  const signedIn = async () => {
    setState({ is: "signed in", ...(await who()) });
    remember(true);
  };
  const start = () => {
    if (!isRemembered()) return setState({ is: "signed out" });
    setState({ is: "starting" });
    return signedIn().catch((error) => {
      if (error.status === 401) remember(false);
      setState(error.status === 401 ? { is: "signed out" } : { is: "failed", error });
    });
  };
  useEffect(() => {
    onSessionEnded(() => {
      remember(false);
      setState({ is: "signed out", why: "Your session has ended. Sign in again to go on." });
    });
    // Whoever lost a role, or an organization, has it leave the menu as well.
    onRefused(() => signedIn().catch(() => {}));
    // After what the page itself says of the change.
    onNotEverywhere((replicas) => setTimeout(() => say(notEverywhere(replicas))));
    start();
  }, []);
  const session = useMemo(
    () => ({
      me: state.me,
      about: state.about,
      say,
      renew: signedIn,
      signOut: async () => {
        await signOut().catch(() => {}); // whatever the answer is, this page forgets who it was
        remember(false);
        setState({ is: "signed out" });
      },
    }),
    [state],
  );
  return html`<${Session.Provider} value=${session}><${Shown} state=${state} start=${start} /><${Said} said=${said} /><//>`;
}

function notEverywhere(replicas) {
  const until = new Date(Math.max(...replicas.map((each) => Date.parse(each.until)))).toLocaleTimeString();
  const names = replicas.map((each) => each.replica).join(", ");
  return `It is done, but not confirmed by ${names}: requests may still be judged by the state before, until ${until} at most.`;
}

// Scripts can't see the session's cookie. So whether there was a session is noted, and nobody else is asked for one in vain.
const SIGNED_IN = "keytoll-signed-in";
const isRemembered = () => localStorage.getItem(SIGNED_IN) !== null;
const remember = (is) => (is ? localStorage.setItem(SIGNED_IN, "") : localStorage.removeItem(SIGNED_IN));

async function who() {
  const me = await whoAmI();
  return { me, about: await get("/about") };
}

function Shown({ state, start }) {
  if (state.is === "starting") return html`<main class="alone"><${Loading} /></main>`;
  if (state.is === "failed") return html`<main class="alone"><${Failed} error=${state.error} again=${start} /></main>`;
  if (state.is === "signed out") return html`<${SignIn} why=${state.why} />`;
  return html`<${Signed} me=${state.me} />`;
}

function Signed({ me }) {
  const route = useRoute();
  const page = pageOf(route.parts, me);
  const address = route.parts.join("/");
  const first = useRef(true);
  useEffect(() => {
    document.title = `${page.title} · ${page.scope?.name ?? "Keytoll"} · Keytoll`;
    if (!first.current) document.querySelector("h1")?.focus();
    first.current = false;
  }, [address]);
  const failed = () => html`<${Failed} error=${new Error("This page could not be shown.")} again=${() => location.reload()} />`;
  return html`
    <${Frame} page=${page}>
      <${Boundary} key=${address} failed=${failed}><${page.show} scope=${page.scope} title=${page.title} /><//>
    <//>
  `;
}

/** What was done, for a moment in the corner, and for screen readers. */
function Said({ said }) {
  const [shown, setShown] = useState(false);
  useEffect(() => {
    if (!said.number) return undefined;
    setShown(true);
    const timer = setTimeout(() => setShown(false), 6000);
    return () => clearTimeout(timer);
  }, [said.number]);
  return html`<div class="said" role="status">${shown && html`<p key=${said.number}>${said.text}</p>`}</div>`;
}

applyTheme();
render(html`<${Console} />`, document.getElementById("app"));
