// The console: who is signed in, which page is shown, and the frame around it.

import { get, onSessionEnded, signOut, whoAmI } from "./api.js";
import { html, render, Session, useEffect, useMemo, useRef, useState } from "./html.js";
import { Frame } from "./frame.js";
import { Failed, Loading } from "./parts.js";
import { pageOf } from "./pages.js";
import { useRoute } from "./route.js";
import { SignIn } from "./sign-in.js";
import { applyTheme } from "./theme.js";

function Console() {
  const [state, setState] = useState({ is: "starting" });
  const [said, setSaid] = useState({ text: "", number: 0 });
  const signedIn = async () => setState({ is: "signed in", ...(await who()) });
  const start = () => {
    setState({ is: "starting" });
    signedIn().catch((error) => setState(error.status === 401 ? { is: "signed out" } : { is: "failed", error }));
  };
  useEffect(() => {
    onSessionEnded(() => setState({ is: "signed out", why: "Your session has ended. Sign in again to go on." }));
    start();
  }, []);
  const session = useMemo(
    () => ({
      me: state.me,
      about: state.about,
      say: (text) => setSaid(({ number }) => ({ text, number: number + 1 })),
      renew: signedIn,
      signOut: async () => {
        await signOut().catch(() => {}); // whatever the answer is, this page forgets who it was
        setState({ is: "signed out" });
      },
    }),
    [state],
  );
  return html`<${Session.Provider} value=${session}><${Shown} state=${state} start=${start} /><${Said} said=${said} /><//>`;
}

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
  return html`<${Frame} page=${page}><${page.show} key=${address} scope=${page.scope} title=${page.title} /><//>`;
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
