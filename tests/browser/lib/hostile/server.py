"""A hostile server inside a seat: shows a page that attacks, claims headers that are not its own, notes what it is sent."""

import http.server
import json
import sys

SEEN = []


class Hostile(http.server.BaseHTTPRequestHandler):
    def answer(self):
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length).decode(errors="replace")
        SEEN.append({"line": self.requestline, "headers": self.headers.items(), "body": body})
        with open("seen.json", "w") as file:
            json.dump(SEEN, file)
        path = self.path.split("?")[0]
        name = "worker.js" if path.endswith("/worker.js") else {"/": "page.html", "/attack.js": "attack.js"}.get(path)
        if name is None:
            return self.send("text/plain", b"hello")
        with open(name, "rb") as file:
            self.send("text/html" if name.endswith("html") else "text/javascript", file.read())

    do_GET = do_POST = do_PUT = do_DELETE = do_OPTIONS = answer

    def send(self, kind, body):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        # Everything below would act on other origins or outlive the preview; the gateway must drop it.
        self.send_header("Set-Cookie", "clarateach_seat=planted; Path=/; Domain=localhost")
        self.send_header("Set-Cookie", "clarateach_login=planted; Path=/")
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Access-Control-Allow-Credentials", "true")
        self.send_header("Service-Worker-Allowed", "/")
        self.send_header("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


print("hostile server is up", flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Hostile).serve_forever()
