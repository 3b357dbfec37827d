// A secret, the one time that it can be seen.

import { html, useSession, useState } from "./html.js";
import { Icon } from "./icons.js";
import { Copied, Dialog } from "./parts.js";

const MODEL = "Qwen2.5-72B-Instruct";
const EXAMPLES = [
  ["curl", curl],
  ["Python", python],
  ["LangChain", langchain],
];

/** The key that was made or rotated, how to keep it, and how to use it. */
export function Secret({ made, title, onClose }) {
  return html`
    <${Dialog} title=${title} onClose=${onClose} kept wide>
      <div class="body">${made.secret ? html`<${Shown} made=${made} />` : html`<${Lost} made=${made} />`}</div>
      <footer><button type="button" class="primary" onClick=${onClose}>${made.secret ? "I have saved it" : "Close"}</button></footer>
    <//>
  `;
}

function Shown({ made }) {
  const { about } = useSession();
  const url = about.base_url ?? "https://<your-gateway-host>/v1";
  return html`
    <p class="notice warn"><${Icon} name="warning" />Copy it now and keep it safe. When you close this, it can't be shown again.</p>
    <p class="copied-name"><b>${made.name}</b></p>
    <${Copied} text=${made.secret} label="API key" />
    <${Examples} secret=${made.secret} url=${url} model=${made.allowed_models?.[0] ?? MODEL} />
  `;
}

// A repeat of a request whose answer got lost is answered without the secret.
const Lost = ({ made }) => html`
  <p class="notice warn"><${Icon} name="warning" />
    <span><b>${made.name}</b> was made by your first attempt, but the answer that held its secret got lost. Rotate the key to give it another one.</span>
  </p>
`;

function Examples({ secret, url, model }) {
  const [chosen, setChosen] = useState(0);
  const [name, example] = EXAMPLES[chosen];
  return html`
    <div class="tabs" role="group" aria-label="Examples">
      ${EXAMPLES.map(([each], index) => html`<button key=${each} type="button" aria-pressed=${index === chosen} onClick=${() => setChosen(index)}>${each}</button>`)}
    </div>
    <${Copied} key=${name} block text=${example({ secret, url, model })} label=${`${name} example`} />
  `;
}

function curl({ secret, url, model }) {
  return `curl ${url}/chat/completions \\
  -H "Authorization: Bearer ${secret}" \\
  -H "Content-Type: application/json" \\
  -d '{"model": "${model}", "messages": [{"role": "user", "content": "Hello!"}]}'`;
}

function python({ secret, url, model }) {
  return `from openai import OpenAI

client = OpenAI(base_url="${url}", api_key="${secret}")
answer = client.chat.completions.create(
    model="${model}",
    messages=[{"role": "user", "content": "Hello!"}],
)
print(answer.choices[0].message.content)`;
}

function langchain({ secret, url, model }) {
  return `from langchain_openai import ChatOpenAI

model = ChatOpenAI(
    model="${model}",
    base_url="${url}",
    api_key="${secret}",
)
print(model.invoke("Hello!").content)`;
}
