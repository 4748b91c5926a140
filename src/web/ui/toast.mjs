/** A short word on what a button did, seen and read out; it goes by itself. */

/** How long it stays, ms; what went wrong takes longer to read. */
const SHOWN_MS = 4000;
const WRONG_MS = 8000;

const place = document.getElementById('toast');
let timer;

/** @param {string} text */
export const done = (text) => show(text, SHOWN_MS);

/** @param {string} text */
export const failed = (text) => show(text, WRONG_MS);

function show(text, ms) {
  place.textContent = text;
  place.classList.toggle('wrong', ms === WRONG_MS);
  clearTimeout(timer);
  timer = setTimeout(() => { place.textContent = ''; }, ms);
}
