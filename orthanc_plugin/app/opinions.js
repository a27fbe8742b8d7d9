// SPDX-License-Identifier: Apache-2.0
// What a person says and does about a result: review, withdraw, cancel, retry.

import { act } from "./api.js";
import { element, fill } from "./dom.js";
import { moment } from "./format.js";
import { t } from "./i18n.js";

const VERDICTS = ["agree", "disagree", "unusable"];

/** Return a button that does something once, and says so where it fails. */
export function actionButton(name, label, work, told) {
    const button = element(
        `button.${name}`,
        {
            type: "button",
            "data-action": name,
            onclick: async () => {
                button.disabled = true;
                try {
                    await work();
                } catch (error) {
                    told(error);
                } finally {
                    button.disabled = false;
                }
            },
        },
        label,
    );
    return button;
}

/**
 * Fill the review part.
 * @param {HTMLElement} target
 * @param {Object} request
 * @param {function(Object): void} changed called with the request as it is then
 * @param {function(Error): void} told called where it failed
 */
export function showReview(target, request, changed, told) {
    const given = request.review;
    const comment = element("textarea", { id: "comment", rows: 2, maxlength: 2000 });
    const buttons = VERDICTS.map((verdict) => {
        const button = actionButton(
            verdict,
            t(`review.${verdict}`),
            async () => changed(await act(request.request_id, "review", { verdict, comment: comment.value })),
            told,
        );
        button.setAttribute("aria-pressed", String(given?.verdict === verdict));
        return button;
    });
    fill(
        target,
        element("h3", {}, t("review.title")),
        given
            ? element(
                  "p.given",
                  { id: "review-given" },
                  element("strong", {}, t(`review.${given.verdict}`)),
                  ` · ${given.by} · ${moment(given.at)}`,
                  given.comment ? element("q", {}, given.comment) : null,
              )
            : element("p.muted", {}, t("review.none")),
        element("div.screen-only", {}, element("label", { for: "comment" }, t("review.comment")), comment),
        element("div.buttons.screen-only", {}, buttons),
        element("button.quiet.screen-only", { type: "button", id: "open-withdraw", onclick: () => askReason(request, changed, told) }, t("withdraw.open")),
    );
}

function askReason(request, changed, told) {
    const dialog = document.getElementById("withdraw");
    const reason = element("textarea", { id: "reason", rows: 3, required: true, maxlength: 500 });
    const warning = element("p.warning", { hidden: true, role: "alert" }, t("withdraw.reason_missing"));
    const withdraw = async () => {
        if (!reason.value.trim()) {
            warning.hidden = false;
            reason.focus();
            return;
        }
        const after = await act(request.request_id, "withdraw", { reason: reason.value.trim() });
        dialog.close();
        changed(after);
    };
    fill(
        dialog,
        element("h2", { id: "withdraw-title" }, t("withdraw.title")),
        element("p", {}, t("withdraw.explained")),
        element("label", { for: "reason" }, t("withdraw.reason")),
        reason,
        warning,
        element(
            "div.buttons",
            {},
            actionButton("withdraw", t("withdraw.do"), withdraw, (error) => {
                dialog.close();
                told(error);
            }),
            element("button", { type: "button", onclick: () => dialog.close() }, t("withdraw.keep")),
        ),
    );
    dialog.showModal();
    reason.focus();
}

// What fails for what was asked fails again however often it is asked.
const FAILS_AGAIN = new Set(["bad_parameters"]);

/** Whether the same request may come to another end. */
export function canBeRetried({ status, error }) {
    return status === "cancelled" || (status === "failed" && !FAILS_AGAIN.has(error?.code));
}

/** Return the buttons that fit a state: cancel while it runs, retry after it failed. */
export function stateButtons(request, changed, told) {
    const button = (name) =>
        actionButton(name, t(`action.${name}`), async () => changed(await act(request.request_id, name)), told);
    if (["pending", "processing"].includes(request.status)) {
        return request.cancel_requested ? [element("p.muted", {}, t("action.cancelling"))] : [button("cancel")];
    }
    return canBeRetried(request) ? [button("retry")] : [];
}
