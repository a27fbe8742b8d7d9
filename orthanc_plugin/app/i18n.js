// SPDX-License-Identifier: Apache-2.0
// The language of the pages: what the person chose here, else the browser's, else English.

import { messages as en } from "./messages.en.js";
import { messages as ko } from "./messages.ko.js";
import { element } from "./dom.js";

const CATALOGUES = { en, ko };
const NAMES = { en: "English", ko: "한국어" };
const CHOICE = "pathology.language";

function stored() {
    try {
        return localStorage.getItem(CHOICE);
    } catch {
        return null; // a browser may forbid storage: then the choice lasts as long as the page
    }
}

function choose() {
    const wanted = [stored(), ...navigator.languages].filter(Boolean).map((tag) => tag.slice(0, 2));
    return wanted.find((language) => language in CATALOGUES) ?? "en";
}

/** The language in use, such as "ko". */
export const language = choose();

/** Return a message; {places} are filled from `values`. */
export function t(key, values = {}) {
    const text = CATALOGUES[language][key] ?? en[key] ?? key;
    return text.replace(/\{(\w+)\}/g, (place, name) => String(values[name] ?? place));
}

/** Whether there is a message for a code out of an open set. */
export function hasWord(family, code) {
    return `${family}.${code}` in en;
}

/** Return the message for a code out of an open set, or the code itself in plain letters. */
export function word(family, code) {
    return hasWord(family, code) ? t(`${family}.${code}`) : String(code).replaceAll("_", " ");
}

/** Put the messages into the static part of a page: data-t is text, data-t-NAME the attribute NAME. */
export function translatePage() {
    document.documentElement.lang = language;
    for (const target of document.querySelectorAll("*")) {
        for (const { name, value } of [...target.attributes]) {
            if (name === "data-t") target.textContent = t(value);
            else if (name.startsWith("data-t-")) target.setAttribute(name.slice("data-t-".length), t(value));
        }
    }
}

/** Return buttons that switch the language; the page loads again in it. */
export function languageSwitch() {
    return Object.keys(CATALOGUES).map((code) =>
        element(
            "button.language",
            { type: "button", lang: code, "aria-pressed": String(code === language), onclick: () => use(code) },
            NAMES[code],
        ),
    );
}

function use(code) {
    try {
        localStorage.setItem(CHOICE, code);
    } catch {
        return;
    }
    location.reload();
}
