// SPDX-License-Identifier: Apache-2.0
// Why something did not work, as every page says it.

import { t, word } from "./i18n.js";

/** Return why something was refused: in the page's language, then in the server's own words. */
export function refusalWords({ code, name, message }) {
    return [word("error", code ?? name), message].filter(Boolean).join(" ");
}

/** Return why nothing comes just now, and when it is asked for again. */
export function laterWords({ status }, pause) {
    return t(status === 0 ? "notice.unreachable" : "notice.busy", { seconds: Math.ceil(pause) });
}
