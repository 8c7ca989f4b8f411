import type { AuthorityPort, Unavailable } from "./objects/authority-protocol.ts";

/** The object's class as its binding gives it; a stub breaks with many errors, so each call gets a new one. */
export type AuthorityNamespace = { getByName(name: string): AuthorityPort };

/** The upstream whose breakers these are; another box would be another name. */
const upstream = "upstream:main";

/** The object behind a binding; what the platform throws becomes `unreachable` or `overloaded`. Never rejects. */
export function createAuthorityPort(namespace: AuthorityNamespace): AuthorityPort {
  const call = async <Reply>(method: (stub: AuthorityPort) => Promise<Reply>): Promise<Reply | Unavailable> => {
    try {
      return await method(namespace.getByName(upstream));
    } catch (error) {
      return readStubError(error);
    }
  };
  return {
    report: (batch) => call((stub) => stub.report(batch)),
    acquire: (name, isolate, ask) => call((stub) => stub.acquire(name, isolate, ask)),
    act: (name, deed, keyId) => call((stub) => stub.act(name, deed, keyId)),
    read: () => call((stub) => stub.read()),
    bumpCacheEpoch: () => call((stub) => stub.bumpCacheEpoch()),
  };
}

/** What a failed call to the object means; never thrown on. */
export function readStubError(error: unknown): Unavailable {
  const overloaded = error instanceof Error && "overloaded" in error && error.overloaded === true;
  const detail = error instanceof Error ? error.message : String(error);
  return { ok: false, code: overloaded ? "overloaded" : "unreachable", detail };
}
