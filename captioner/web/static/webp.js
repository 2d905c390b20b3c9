/* WebP photos with an EXIF orientation. Browsers disagree on whether to apply it, unlike for JPEG. So it is removed here, and
 * photo.js rotates the photo as the server does. */

const ORIENTATION = 0x0112; // the number of its EXIF tag

/** [the file with orientation 1, the orientation that it had (1 to 8)]; for all but turned WebPs [the file itself, 1]. */
export async function withoutOrientation(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const view = new DataView(bytes.buffer);
  const text = (at, length) => String.fromCharCode(...bytes.subarray(at, at + length));
  if (text(0, 4) !== "RIFF" || text(8, 4) !== "WEBP") return [file, 1];
  try {
    for (let at = 12; at + 8 <= bytes.length;) {
      const size = view.getUint32(at + 4, true);
      if (text(at, 4) === "EXIF") return untagged(bytes, view, at + (text(at + 8, 4) === "Exif" ? 14 : 8)) ?? [file, 1];
      at += 8 + size + (size % 2);
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // cut or damaged EXIF data are ignored
  }
  return [file, 1];
}

/** The same, given where the EXIF data start (a TIFF header); null if they have no rotation. */
function untagged(bytes, view, start) {
  const little = view.getUint16(start) === 0x4949; // "II"
  const first = start + view.getUint32(start + 4, little);
  for (let entry = 0; entry < view.getUint16(first, little); entry++) {
    const at = first + 2 + 12 * entry;
    if (view.getUint16(at, little) !== ORIENTATION) continue;
    const orientation = view.getUint16(at + 8, little);
    if (orientation < 2 || orientation > 8) return null;
    view.setUint16(at + 8, 1, little);
    return [new Blob([bytes]), orientation];
  }
  return null;
}
