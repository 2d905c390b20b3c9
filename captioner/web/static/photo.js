/* The sources of photos: picked, dropped, pasted, or taken with the camera; and how a photo is displayed. */

import { withoutOrientation } from "./webp.js";

const DISPLAY_PIXELS = 1600; // the longest side on the screen; the file is sent unchanged

const TURNS = { // EXIF orientation -> the canvas transform of a photo that is W x H when it is upright
  1: () => [1, 0, 0, 1, 0, 0], 2: (W) => [-1, 0, 0, 1, W, 0], 3: (W, H) => [-1, 0, 0, -1, W, H], 4: (W, H) => [1, 0, 0, -1, 0, H],
  5: () => [0, 1, 1, 0, 0, 0], 6: (W) => [0, 1, -1, 0, W, 0], 7: (W, H) => [0, -1, -1, 0, W, H], 8: (W, H) => [0, -1, 1, 0, 0, H],
};

const element = (id) => document.getElementById(id);

/** Calls give(file) for each photo, and fail(text) for each error. */
export function watch(give, fail) {
  for (const [button, input] of [["pick", "file"], ["take", "capture"]]) {
    element(button).addEventListener("click", () => element(input).click());
    element(input).addEventListener("change", (event) => {
      const [file] = event.target.files;
      event.target.value = ""; // so that the same file may be picked again
      if (file) give(file);
    });
  }
  watchDrops(give, fail);
  document.addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (file) {
      event.preventDefault();
      give(file);
    } else if (!event.target.closest("input, select")) {
      fail("There is no photo in the clipboard. Copy one first.");
    }
  });
  watchCamera(give, fail);
}

function watchDrops(give, fail) {
  let inside = 0; // elements that the pointer has entered and not left
  const over = (change) => {
    inside = Math.max(inside + change, 0);
    document.body.classList.toggle("over", inside > 0);
  };
  document.addEventListener("dragenter", () => over(1));
  document.addEventListener("dragleave", () => over(-1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    over(-inside);
    const [file] = event.dataTransfer.files;
    if (file) give(file);
    else fail("That was not a file. Drop a photo file.");
  });
}

/** On phones the camera app; elsewhere a viewfinder in the page. */
function watchCamera(give, fail) {
  const phone = matchMedia("(pointer: coarse)").matches;
  element("take").hidden = !phone;
  element("camera").hidden = phone || !navigator.mediaDevices?.getUserMedia;
  const [viewfinder, video] = [element("viewfinder"), element("video")];
  element("camera").addEventListener("click", async () => {
    element("camera").disabled = true; // ask once
    try {
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1920 } } });
      viewfinder.showModal();
    } catch (error) {
      fail(error.name === "NotAllowedError"
        ? "The camera is blocked. Allow it in the browser's settings for this page."
        : "No camera was found, or another program is using it.");
    } finally {
      element("camera").disabled = false;
    }
  });
  element("cancel").addEventListener("click", () => viewfinder.close());
  viewfinder.addEventListener("close", () => {
    video.srcObject?.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
  });
  element("shoot").addEventListener("click", async () => {
    if (!video.videoWidth) return; // not ready
    const blob = await encoded(canvasOf(video, video.videoWidth, video.videoHeight));
    viewfinder.close();
    give(new File([blob], "camera.jpg", { type: blob.type }));
  });
}

/** A URL of the photo for display: upright, at most 1600 pixels per side, over white, the first frame of an animation. If
 * the browser cannot decode the file (such as a TIFF), a URL of the file itself. The caller must revoke it. */
export async function displayUrl(file) {
  try {
    const [stored, orientation] = await withoutOrientation(file);
    const bitmap = await createImageBitmap(stored);
    const scale = Math.min(1, DISPLAY_PIXELS / Math.max(bitmap.width, bitmap.height));
    const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
    const canvas = canvasOf(bitmap, width, height, orientation);
    bitmap.close();
    return URL.createObjectURL(await encoded(canvas));
  } catch {
    return URL.createObjectURL(file);
  }
}

function canvasOf(source, width, height, orientation = 1) {
  const [W, H] = orientation < 5 ? [width, height] : [height, width];
  const canvas = Object.assign(document.createElement("canvas"), { width: W, height: H });
  const context = canvas.getContext("2d");
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, W, H);
  context.setTransform(...TURNS[orientation](W, H));
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, width, height);
  return canvas;
}

function encoded(canvas) {
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("no picture"))), "image/jpeg", 0.92);
  });
}
