// Runs in the preview. TARGET (where the workshop's pages live), ENDPOINT and WORKSHOP come by the address, as if the
// attacker had learnt them. Each attempt says what it yielded; whatever is readable is put into the answer in full.
(async () => {
  const { target, endpoint, workshop } = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  const report = {};
  const within = (ms, promise) => Promise.race([promise, new Promise((resolve) => setTimeout(() => resolve("nothing came"), ms))]);
  const attempt = async (name, action) => {
    try {
      report[name] = await within(4000, action());
    } catch (error) {
      report[name] = `refused: ${error.name}`;
    }
  };
  const read = async (path, init) => {
    const response = await fetch(new URL(path, target), { credentials: "include", ...init });
    return response.type === "opaque" ? `opaque ${response.status}` : `READ ${response.status} ${await response.text()}`;
  };

  await attempt("fetch workshops", () => read("/api/workshops"));
  await attempt("fetch workshops without cors", () => read("/api/workshops", { mode: "no-cors" }));
  await attempt("fetch files of the seat", () => read(`${endpoint}/files?path=`));
  await attempt("fetch with its own token header", () => read("/api/me", { headers: { Authorization: "Bearer x" } }));
  await attempt("xhr workshops", () => new Promise((resolve) => {
    const request = new XMLHttpRequest();
    request.open("GET", `${target}/api/workshops`);
    request.withCredentials = true;
    request.onload = () => resolve(`READ ${request.responseText}`);
    request.onerror = () => resolve("refused: network error");
    request.send();
  }));
  await attempt("script workshops", () => new Promise((resolve) => {
    const script = document.createElement("script");
    script.src = `${target}/api/workshops`;
    script.onload = () => resolve("LOADED");
    script.onerror = () => resolve("refused: not loaded");
    document.head.append(script);
  }));
  await attempt("event stream", () => new Promise((resolve) => {
    const source = new EventSource(`${target}/api/workshops/${workshop}/events`, { withCredentials: true });
    source.addEventListener("workshop", (event) => resolve(`READ ${event.data}`));
    source.onmessage = (event) => resolve(`READ ${event.data}`);
    source.onerror = () => resolve("refused: not opened");
  }));
  await attempt("terminal of the seat", () => new Promise((resolve) => {
    const socket = new WebSocket(endpoint.replace(/^http/, "ws") + "/terminal", ["clarateach.terminal.v1"]);
    socket.onopen = () => resolve("OPENED");
    socket.onmessage = (event) => resolve(`READ ${event.data}`);
    socket.onerror = () => resolve("refused: not opened");
  }));
  for (const path of ["/api/workshops", "/instructor", "/learn"]) {
    await attempt(`frame ${path}`, () => new Promise((resolve) => {
      const frame = document.createElement("iframe");
      frame.src = target + path;
      frame.onload = () => {
        try {
          resolve(frame.contentDocument === null ? "closed to us" : `READ ${frame.contentDocument.body.innerText}`);
        } catch (error) {
          resolve(`refused: ${error.name}`);
        }
      };
      document.body.append(frame);
    }));
  }
  await attempt("opener", async () => (window.opener === null ? "there is none" : `THERE IS ONE ${typeof window.opener}`));
  await attempt("opened window", async () => {
    const opened = window.open(`${target}/learn`);
    if (opened === null) return "not opened";
    await new Promise((resolve) => setTimeout(resolve, 1500));
    const tried = {};
    for (const what of ["document", "localStorage", "sessionStorage"]) {
      try {
        tried[what] = `READ ${JSON.stringify(opened[what])}`;
      } catch (error) {
        tried[what] = `refused: ${error.name}`;
      }
    }
    const answers = [];
    addEventListener("message", (event) => answers.push(event.data));
    for (const message of ["token", { type: "getToken" }, { type: "session" }]) opened.postMessage(message, "*");
    await new Promise((resolve) => setTimeout(resolve, 700));
    opened.close();
    return { ...tried, answers };
  });
  await attempt("own cookies", async () => document.cookie);
  await attempt("own storage", async () => JSON.stringify({ ...localStorage, ...sessionStorage }));
  await attempt("cookie for the parent domain", async () => {
    document.cookie = "clarateach_seat=planted; path=/; domain=localhost";
    return document.cookie;
  });
  await attempt("service worker of the main origin", () => navigator.serviceWorker.register(`${target}/worker.js`).then((r) => `REGISTERED ${r.scope}`));
  await attempt("service worker above its own path", () => navigator.serviceWorker.register("/deep/worker.js", { scope: "/" }).then((r) => `REGISTERED ${r.scope}`));
  const workshopBody = JSON.stringify({ name: "Made by a preview", seats: 1 });
  await attempt("post by fetch as json", () => read("/api/workshops", { method: "POST", body: workshopBody, headers: { "Content-Type": "application/json" } }));
  await attempt("post by fetch without cors", () => read("/api/workshops", { method: "POST", mode: "no-cors", body: workshopBody }));
  await attempt("delete by fetch", () => read(`/api/workshops/${workshop}`, { method: "DELETE" }));
  await attempt("post by form", () => new Promise((resolve) => {
    const frame = document.createElement("iframe");
    frame.name = "sink";
    document.body.append(frame);
    const form = document.createElement("form");
    form.method = "post";
    form.enctype = "text/plain";
    form.action = `${target}/api/workshops`;
    form.target = "sink";
    const field = document.createElement("input");
    // As text/plain this is sent as name=value: valid JSON all the same.
    field.name = '{"name":"Made by a form","seats":1,"image":"';
    field.value = '"}';
    form.append(field);
    document.body.append(form);
    frame.onload = () => resolve("answered, unreadably");
    form.submit();
  }));
  await attempt("sendBeacon stop", async () => `queued: ${navigator.sendBeacon(`${target}/api/workshops/${workshop}/stop`, "{}")}`);
  await attempt("headers that the browser sees", async () => {
    const response = await fetch("./");
    return JSON.stringify(Object.fromEntries(response.headers));
  });

  document.getElementById("report").textContent = JSON.stringify(report, null, 1);
  document.title = "done";
})();
