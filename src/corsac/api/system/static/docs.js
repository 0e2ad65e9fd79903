// Signs the browser in where the address carries a ticket, then shows the API.

const ticket = new URLSearchParams(location.hash.slice(1)).get("ticket");

async function signIn() {
  history.replaceState(null, "", location.pathname); // the ticket stays in no history and no referrer
  const answer = await fetch("/api/session", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ticket }),
  });
  if (answer.ok) return;
  const problem = await answer.json();
  const notice = document.getElementById("notice");
  notice.textContent = [problem.detail, problem.hint].filter(Boolean).join(" ");
  notice.hidden = false;
}

if (ticket) await signIn();

window.SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#api",
  deepLinking: false,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  withCredentials: true,
  validatorUrl: null,
});
