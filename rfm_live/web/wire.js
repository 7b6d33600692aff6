// msgpack for the messages of rfm_live/control/wire.py: nil, booleans, numbers, text, bytes, lists and maps.
// Whole numbers travel as integers, bytes as Uint8Array (a view of the message, not a copy).

const utf8 = new TextEncoder();
const fromUtf8 = new TextDecoder("utf-8", { fatal: true });

export function encode(value) {
  const bytes = [];
  write(bytes, value);
  return new Uint8Array(bytes);
}

export function decode(buffer) {
  const reader = { view: new DataView(buffer), at: 0 };
  const value = read(reader);
  if (reader.at !== buffer.byteLength) throw new Error(`${buffer.byteLength - reader.at} bytes follow the message`);
  return value;
}

function write(bytes, value) {
  if (value === null || value === undefined) bytes.push(0xc0);
  else if (typeof value === "boolean") bytes.push(value ? 0xc3 : 0xc2);
  else if (typeof value === "number") writeNumber(bytes, value);
  else if (typeof value === "string") {
    const text = utf8.encode(value);
    writeHead(bytes, text.length, 0xa0, 31, [0xd9, 0xda, 0xdb]);
    for (const byte of text) bytes.push(byte);
  } else if (value instanceof Uint8Array) {
    writeHead(bytes, value.length, 0, -1, [0xc4, 0xc5, 0xc6]);
    for (const byte of value) bytes.push(byte);
  } else if (Array.isArray(value)) {
    writeHead(bytes, value.length, 0x90, 15, [null, 0xdc, 0xdd]);
    for (const entry of value) write(bytes, entry);
  } else if (typeof value === "object") {
    const entries = Object.entries(value);
    writeHead(bytes, entries.length, 0x80, 15, [null, 0xde, 0xdf]);
    for (const [key, entry] of entries) {
      write(bytes, key);
      write(bytes, entry);
    }
  } else throw new Error(`a ${typeof value} cannot be sent`);
}

function writeNumber(bytes, value) {
  if (!Number.isSafeInteger(value) || Object.is(value, -0)) writeScalar(bytes, 0xcb, 8, "setFloat64", value);
  else if (value >= 0 && value < 128) bytes.push(value);
  else if (value < 0 && value >= -32) bytes.push(value & 0xff);
  else if (value >= -(2 ** 31) && value < 2 ** 31) writeScalar(bytes, 0xd2, 4, "setInt32", value);
  else writeScalar(bytes, 0xd3, 8, "setBigInt64", BigInt(value));
}

function writeScalar(bytes, tag, size, setter, value) {
  const view = new DataView(new ArrayBuffer(size));
  view[setter](0, value);
  bytes.push(tag, ...new Uint8Array(view.buffer));
}

// The length of something, in the shortest of: `fixed` + length up to `most`, or a tag with 8, 16 or 32 bits.
function writeHead(bytes, length, fixed, most, [tag8, tag16, tag32]) {
  if (length <= most) bytes.push(fixed | length);
  else if (tag8 !== null && length < 2 ** 8) bytes.push(tag8, length);
  else if (length < 2 ** 16) bytes.push(tag16, length >> 8, length & 0xff);
  else writeScalar(bytes, tag32, 4, "setUint32", length);
}

function read(reader) {
  const tag = take(reader, 1, "getUint8");
  if (tag < 0x80) return tag;
  if (tag < 0x90) return readMap(reader, tag & 15);
  if (tag < 0xa0) return readList(reader, tag & 15);
  if (tag < 0xc0) return fromUtf8.decode(readBytes(reader, tag & 31));
  if (tag >= 0xe0) return tag - 256;
  switch (tag) {
    case 0xc0: return null;
    case 0xc2: return false;
    case 0xc3: return true;
    case 0xc4: return readBytes(reader, take(reader, 1, "getUint8"));
    case 0xc5: return readBytes(reader, take(reader, 2, "getUint16"));
    case 0xc6: return readBytes(reader, take(reader, 4, "getUint32"));
    case 0xca: return take(reader, 4, "getFloat32");
    case 0xcb: return take(reader, 8, "getFloat64");
    case 0xcc: return take(reader, 1, "getUint8");
    case 0xcd: return take(reader, 2, "getUint16");
    case 0xce: return take(reader, 4, "getUint32");
    case 0xcf: return Number(take(reader, 8, "getBigUint64"));
    case 0xd0: return take(reader, 1, "getInt8");
    case 0xd1: return take(reader, 2, "getInt16");
    case 0xd2: return take(reader, 4, "getInt32");
    case 0xd3: return Number(take(reader, 8, "getBigInt64"));
    case 0xd9: return fromUtf8.decode(readBytes(reader, take(reader, 1, "getUint8")));
    case 0xda: return fromUtf8.decode(readBytes(reader, take(reader, 2, "getUint16")));
    case 0xdb: return fromUtf8.decode(readBytes(reader, take(reader, 4, "getUint32")));
    case 0xdc: return readList(reader, take(reader, 2, "getUint16"));
    case 0xdd: return readList(reader, take(reader, 4, "getUint32"));
    case 0xde: return readMap(reader, take(reader, 2, "getUint16"));
    case 0xdf: return readMap(reader, take(reader, 4, "getUint32"));
    default: throw new Error(`msgpack tag 0x${tag.toString(16)} is not for us`);
  }
}

function take(reader, size, getter) {
  const value = reader.view[getter](reader.at);
  reader.at += size;
  return value;
}

function readBytes(reader, length) {
  if (reader.at + length > reader.view.byteLength) throw new RangeError("the message ends early");
  const bytes = new Uint8Array(reader.view.buffer, reader.at, length);
  reader.at += length;
  return bytes;
}

function readList(reader, length) {
  const list = [];
  for (let index = 0; index < length; index++) list.push(read(reader));
  return list;
}

function readMap(reader, length) {
  const map = {};
  for (let index = 0; index < length; index++) {
    const key = read(reader);
    map[key] = read(reader);
  }
  return map;
}
