import { findNearest } from "../shared/vector-search.ts";

/** Vectors in one row: what is rewritten for one more, and what a start reads in one go. */
const mostInChunk = 128;
/** A row may hold 2 MB. */
const chunkBytes = 2 ** 20;
/** Memory for the vectors of one encoder; an object has 128 MB. 10,000 vectors of 768 numbers fit. */
const encoderBytes = 2 ** 25;
/** Encoders whose vectors are kept: the present one and the one before it. */
const mostEncoders = 2;

/** An encoder, by a small number of its own. */
export type SimilarEncoder = { id: number; name: string; dimensions: number };

/** Whose vector stands in a place, to which wishes, until when, and how old it is among all. */
type Head = { key: string; asked: string; until: number; order: number };

/** A row of vectors: `heads` is JSON, one head or null a place; `vectors` the numbers, place after place. */
export type SimilarChunk = { chunk: number; heads: string; vectors: ArrayBuffer };

/** The tables under an index; any of these may throw. */
export type SimilarRows = {
  encoders(): SimilarEncoder[];
  addEncoder(encoder: SimilarEncoder): void;
  /** With its chunks. */
  removeEncoder(id: number): void;
  chunks(encoder: number): SimilarChunk[];
  writeChunk(encoder: number, chunk: SimilarChunk): void;
  readEntry(key: string): string | null;
  writeEntry(key: string, sha256: string, value: string): void;
  removeEntries(keys: readonly string[]): void;
  keysOf(sha256: string): string[];
  clear(): void;
};

/** What is added: `vector` has length 1. */
export type SimilarAddition = {
  key: string;
  asked: string;
  sha256: string;
  until: number;
  value: string;
  encoder: string;
  vector: Float32Array;
};

/** One tenant's vectors in memory, over their tables. After a throw, make a new one. */
export type SimilarStore = {
  /** False: the encoder's other vectors have another length. */
  add(addition: SimilarAddition, limit: number): { entries: number; evicted: number } | false;
  find(
    query: { asked: string; encoder: string; vector: Float32Array; floor: number },
    nowMs: number,
  ): { key: string; value: string; similarity: number } | null;
  drop(key: string): void;
  /** Forgets one picture's captions; null = all. Gives how many. */
  purge(sha256: string | null): number;
  sweep(nowMs: number): { removed: number; entries: number };
};

/** The vectors of one encoder: place by place, as in the tables. */
type Shelf = { encoder: SimilarEncoder; vectors: Float32Array; heads: (Head | null)[]; places: Map<string, number> };

/** The chunks to write again, shelf by shelf. */
type Changed = Map<Shelf, Set<number>>;

/** An index over its tables, all vectors read. */
export function createSimilarStore(rows: SimilarRows): SimilarStore {
  const shelves = rows.encoders().map((encoder) => readShelf(encoder, rows.chunks(encoder.id)));
  let order = Math.max(0, ...shelves.map(newest));

  const countAll = (): number => shelves.reduce((sum, shelf) => sum + shelf.places.size, 0);
  const save = (changed: Changed): void => {
    for (const [shelf, chunks] of changed) {
      if (shelf.places.size === 0) discard(shelf);
      else for (const chunk of chunks) rows.writeChunk(shelf.encoder.id, cutChunk(shelf, chunk));
    }
  };
  const discard = (shelf: Shelf): void => {
    rows.removeEntries([...shelf.places.keys()]);
    rows.removeEncoder(shelf.encoder.id);
    shelves.splice(shelves.indexOf(shelf), 1);
  };
  /** Empties the places of these keys, in memory. */
  const vacate = (keys: readonly string[], changed: Changed): void => {
    for (const shelf of shelves) {
      for (const key of keys) {
        const place = shelf.places.get(key);
        if (place === undefined) continue;
        shelf.places.delete(key);
        shelf.heads[place] = null;
        shelf.vectors.fill(0, place * shelf.encoder.dimensions, (place + 1) * shelf.encoder.dimensions);
        mark(changed, shelf, place);
      }
    }
  };
  const forget = (keys: readonly string[]): void => {
    const changed: Changed = new Map();
    vacate(keys, changed);
    rows.removeEntries(keys);
    save(changed);
  };
  const shelfOf = ({ encoder, vector }: SimilarAddition): Shelf => {
    const known = shelves.find((each) => each.encoder.name === encoder);
    if (known !== undefined) return known;
    const stalest = shelves.toSorted((left, right) => newest(left) - newest(right)).at(0);
    if (shelves.length >= mostEncoders && stalest !== undefined) discard(stalest);
    const id = Math.max(0, ...shelves.map((each) => each.encoder.id)) + 1;
    const shelf = readShelf({ id, name: encoder, dimensions: vector.length }, []);
    rows.addEncoder(shelf.encoder);
    shelves.push(shelf);
    return shelf;
  };

  return {
    add(addition, limit) {
      const { key, asked, until, vector } = addition;
      if (limit <= 0) return { entries: countAll(), evicted: 0 };
      const shelf = shelfOf(addition);
      if (shelf.encoder.dimensions !== vector.length) return false;
      const changed: Changed = new Map();
      vacate([key], changed);
      const room = Math.min(limit, Math.floor(encoderBytes / (4 * vector.length)));
      const victims = [
        ...oldestOf(shelves, countAll() + 1 - limit),
        ...oldestOf([shelf], shelf.places.size + 1 - room),
      ];
      const gone = [...new Set(victims)];
      vacate(gone, changed);
      rows.removeEntries(gone);
      order += 1;
      const place = freePlace(shelf);
      shelf.heads[place] = { key, asked, until, order };
      shelf.places.set(key, place);
      holdPlaces(shelf, place + 1);
      shelf.vectors.set(vector, place * vector.length);
      mark(changed, shelf, place);
      rows.writeEntry(key, addition.sha256, addition.value);
      save(changed);
      return { entries: countAll(), evicted: gone.length };
    },

    find({ asked, encoder, vector, floor }, nowMs) {
      const shelf = shelves.find((each) => each.encoder.name === encoder);
      if (shelf?.encoder.dimensions !== vector.length) return null;
      const { vectors, heads } = shelf;
      const accepts = (index: number): boolean => {
        const head = heads[index] ?? null;
        return head !== null && head.asked === asked && head.until > nowMs;
      };
      const nearest = findNearest({ vectors, count: heads.length, query: vector, floor, accepts });
      const key = nearest === null ? undefined : heads[nearest.index]?.key;
      if (nearest === null || key === undefined) return null;
      const value = rows.readEntry(key);
      return value === null ? null : { key, value, similarity: nearest.cosine };
    },

    drop: (key) => forget([key]),

    purge(sha256) {
      const before = countAll();
      if (sha256 === null) {
        rows.clear();
        shelves.length = 0;
      } else forget(rows.keysOf(sha256));
      return before - countAll();
    },

    sweep(nowMs) {
      const ended = headsOf(shelves).filter(({ until }) => until <= nowMs);
      if (ended.length > 0) forget(ended.map(({ key }) => key));
      return { removed: ended.length, entries: countAll() };
    },
  };
}

function readShelf(encoder: SimilarEncoder, chunks: readonly SimilarChunk[]): Shelf {
  const shelf: Shelf = { encoder, vectors: new Float32Array(0), heads: [], places: new Map() };
  const inChunk = chunkSize(encoder.dimensions);
  holdPlaces(
    shelf,
    chunks.reduce((most, { chunk }) => Math.max(most, (chunk + 1) * inChunk), 0),
  );
  for (const { chunk, heads, vectors } of chunks) {
    const first = chunk * inChunk;
    const stored = JSON.parse(heads) as (Head | null)[];
    if (vectors.byteLength !== stored.length * encoder.dimensions * 4) continue;
    shelf.vectors.set(new Float32Array(vectors), first * encoder.dimensions);
    for (const [index, head] of stored.entries()) {
      if (head === null) continue;
      shelf.heads[first + index] = head;
      shelf.places.set(head.key, first + index);
    }
  }
  // A hole in a list reads as undefined and is no head.
  shelf.heads = Array.from(shelf.heads, (head) => head ?? null);
  return shelf;
}

/** Makes the memory large enough, doubling it: one copy for as many additions as there are vectors. */
function holdPlaces(shelf: Shelf, places: number): void {
  const needed = places * shelf.encoder.dimensions;
  if (needed <= shelf.vectors.length) return;
  const larger = new Float32Array(Math.max(needed, shelf.vectors.length * 2));
  larger.set(shelf.vectors);
  shelf.vectors = larger;
}

function cutChunk(shelf: Shelf, chunk: number): SimilarChunk {
  const { dimensions } = shelf.encoder;
  const first = chunk * chunkSize(dimensions);
  const last = Math.min(first + chunkSize(dimensions), shelf.heads.length);
  return {
    chunk,
    heads: JSON.stringify(shelf.heads.slice(first, last)),
    vectors: shelf.vectors.slice(first * dimensions, last * dimensions).buffer,
  };
}

function mark(changed: Changed, shelf: Shelf, place: number): void {
  const chunk = Math.floor(place / chunkSize(shelf.encoder.dimensions));
  changed.set(shelf, (changed.get(shelf) ?? new Set<number>()).add(chunk));
}

function chunkSize(dimensions: number): number {
  return Math.max(1, Math.min(mostInChunk, Math.floor(chunkBytes / (4 * dimensions))));
}

function freePlace(shelf: Shelf): number {
  const gap = shelf.places.size < shelf.heads.length ? shelf.heads.indexOf(null) : -1;
  return gap < 0 ? shelf.heads.length : gap;
}

function headsOf(shelves: readonly Shelf[]): Head[] {
  return shelves.flatMap(({ heads }) => heads.filter((head) => head !== null));
}

function oldestOf(shelves: readonly Shelf[], count: number): string[] {
  if (count <= 0) return [];
  const heads = headsOf(shelves).sort((left, right) => left.order - right.order);
  return heads.slice(0, count).map(({ key }) => key);
}

function newest(shelf: Shelf): number {
  return headsOf([shelf]).reduce((most, head) => Math.max(most, head.order), 0);
}
