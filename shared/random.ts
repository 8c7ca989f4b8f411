/** A number in [0, 1), evenly spread; hosts give the real one, tests and simulations a seeded one. */
export type Random = () => number;
