// SPDX-License-Identifier: Apache-2.0
// Asking for an analysis; where the slide has that very result already, only once a person has said so.

import { analyse } from "./api.js";
import { element } from "./dom.js";
import { moment } from "./format.js";
import { t } from "./i18n.js";
import { isLost, isOpen } from "./requests.js";
import { headline } from "./sections.js";

/**
 * Whether an earlier result was made by the model that is wanted, as the pages want it: without parameters. The
 * server knows it of wishes that are equal to the letter; one that named no model may have been answered by this one.
 */
function isSame(request, wanted) {
    const plain = !Object.keys(request.parameters ?? {}).length && !isLost(request);
    return request.status === "completed" && plain && request.model === wanted.model;
}

/** Ask a person whether to do again what is done; the answer that changes nothing comes first. */
function confirmed(host, { summary, model, model_version: version, updated, created_by: by }) {
    const close = (value) => () => dialog.close(value);
    const dialog = element(
        "dialog.question",
        { "aria-labelledby": "again-title" },
        element("h2", { id: "again-title" }, t("again.title")),
        element("p", {}, t("again.existing")),
        summary ? headline(summary) : null,
        element("p.muted", {}, [[model, version].filter(Boolean).join(" "), moment(updated), by].filter(Boolean).join(" · ")),
        element("p", {}, t("again.explained")),
        element(
            "div.buttons",
            {},
            element("button", { type: "button", "data-answer": "keep", onclick: close("") }, t("again.keep")),
            element("button", { type: "button", "data-answer": "again", onclick: close("again") }, t("again.do")),
        ),
    );
    host.append(dialog);
    return new Promise((resolve) => {
        dialog.addEventListener("close", () => {
            dialog.remove();
            resolve(dialog.returnValue === "again");
        });
        dialog.showModal();
    });
}

/**
 * Ask for an analysis, for a second one of the same kind only knowingly.
 * @param {HTMLElement} host where the question is put
 * @param {Object} wanted what `POST /pathology/analyze` takes
 * @param {Object[]} known requests of the slide
 * @returns {Promise<Object|null>} the server's answer; null where the person keeps what there is
 */
export async function analyseKnowingly(host, wanted, known) {
    let existing = known.find((request) => isSame(request, wanted));
    if (!existing) {
        const answer = await analyse(wanted);
        if (answer.created || isOpen(answer.request)) return answer;
        existing = answer.request;
    }
    return isLost(existing) || (await confirmed(host, existing)) ? analyse({ ...wanted, force: true }) : null;
}
