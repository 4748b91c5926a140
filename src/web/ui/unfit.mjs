/** The failure after which a transport is not tried again for this stream: it cannot work here. */
export class Unfit extends Error {}
