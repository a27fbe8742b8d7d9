// SPDX-License-Identifier: Apache-2.0
// Elements out of values. Text goes in as text only, so that a name with markup in it is shown, never parsed.

/**
 * Make an element.
 * @param {string} name tag, with classes after dots: "p.muted.small"
 * @param {Object} properties attributes; "on…" with a function is a listener, false and null leave one out
 * @param {...(Node|string|number|null|Array)} children what goes inside; null is left out
 * @returns {HTMLElement}
 */
export function element(name, properties = {}, ...children) {
    const [tag, ...classes] = name.split(".");
    const made = document.createElement(tag);
    if (classes.length) made.className = classes.join(" ");
    for (const [key, value] of Object.entries(properties)) set(made, key, value);
    append(made, children);
    return made;
}

function set(target, key, value) {
    if (value === false || value === null || value === undefined) return;
    if (typeof value === "function") target.addEventListener(key.slice(2), value);
    else target.setAttribute(key, value === true ? "" : value);
}

function append(target, children) {
    for (const child of children.flat(Infinity)) {
        if (child !== null && child !== undefined && child !== false) target.append(child);
    }
}

/** Replace all that an element holds. */
export function fill(target, ...children) {
    target.replaceChildren();
    append(target, children);
}

/** Return a bar that is filled to a share, 0 to 1; unless told otherwise it only repeats what a text says. */
export function bar(share, properties = { "aria-hidden": "true" }) {
    const filled = element("span.filled");
    filled.style.width = `${100 * Math.min(1, Math.max(0, share))}%`;
    return element("span.bar", properties, filled);
}

/** Return the element with this id. */
export function byId(id) {
    return document.getElementById(id);
}

/** Return a list of terms and their values; pairs without a value are left out. */
export function definitions(pairs, name = "dl.facts") {
    const known = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
    return element(
        name,
        {},
        known.map(([term, value]) => element("div", {}, element("dt", {}, term), element("dd", {}, value))),
    );
}
