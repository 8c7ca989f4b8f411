/** Every route and the methods it takes; a segment in braces stands for any one segment. */
export const routes = {
  "/": ["GET"],
  "/healthz": ["GET"],
  "/readyz": ["GET"],
  "/v1/status": ["GET"],
  "/v1/captions": ["POST"],
  "/v1/embeddings": ["POST"],
  "/v1/circuit-breakers": ["GET"],
  "/v1/circuit-breakers/{name}/{act}": ["POST"],
  "/v1/cache": ["DELETE"],
} as const satisfies Record<string, readonly string[]>;

/** The pattern of a route. */
export type Route = keyof typeof routes;

const patterns = (Object.keys(routes) as Route[]).map((route) => ({ route, segments: route.split("/") }));

/** The route a path belongs to, whatever the method; null = none. */
export function routeOf(path: string): Route | null {
  const segments = path.split("/");
  const found = patterns.find(
    (pattern) =>
      pattern.segments.length === segments.length &&
      pattern.segments.every((part, at) => (part.startsWith("{") ? segments[at] !== "" : part === segments[at])),
  );
  return found?.route ?? null;
}

/** What `Allow` says of a route. */
export function allowOf(route: Route): string {
  return routes[route].flatMap((method): string[] => (method === "GET" ? ["GET", "HEAD"] : [method])).join(", ");
}
