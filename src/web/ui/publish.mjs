/** What the page shows when there is no stream: where to publish one to. */

import { askJson } from './api.mjs';

const part = (id) => document.getElementById(id);

let asked = false;

/** Shows the address and its QR code; asked for once. */
export async function invite() {
  if (asked) return;
  asked = true;
  try {
    const { url, qr_svg: svg } = await askJson('/api/v1/publish?stream=stream');
    part('publish-url').textContent = url;
    part('publish-qr').src = `data:image/svg+xml,${encodeURIComponent(svg)}`;
    part('publish-qr').hidden = false;
  } catch (error) {
    asked = false;
    part('publish-url').textContent = error.message;
  }
}

/** Copies the address, also where the page is not a secure context and has no clipboard. */
export async function copy() {
  const range = document.createRange();
  range.selectNodeContents(part('publish-url'));
  getSelection().removeAllRanges();
  getSelection().addRange(range);
  const text = part('publish-url').textContent;
  const copied = navigator.clipboard
    ? await navigator.clipboard.writeText(text).then(() => true, () => false)
    : document.execCommand('copy');
  part('copied').textContent = copied ? 'Copied.' : 'The address is selected: copy it.';
}
