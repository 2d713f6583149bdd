import { AtomlossError } from "../../errors.ts";

/** An extended-XYZ file is not what it should be; the message has file and line. */
export class ExtxyzError extends AtomlossError {}
