// SPDX-License-Identifier: Apache-2.0
// One line of the worklist.

import { bar, element, fill } from "./dom.js";
import { age, dicomDate, moment, percent, personName, shareDone, stateWords } from "./format.js";
import { t, word } from "./i18n.js";
import { stateButtons } from "./opinions.js";
import { tells } from "./requests.js";
import { notes } from "./sections.js";

function chip(text, kind = "") {
    return element(`span.chip${kind ? `.${kind}` : ""}`, {}, text);
}

function running(request) {
    const share = shareDone(request);
    return [
        element(
            "p.small",
            {},
            request.stage ? word("stage", request.stage) : "",
            element("strong", {}, ` ${percent(share)}`),
            request.detail ? ` · ${request.detail}` : "",
        ),
        bar(share),
    ];
}

function answer({ predicted_class: name, probabilities = {}, quality = {} }) {
    if (quality.status === "abstained") return element("p", {}, chip(t("verdict.abstained"), "careful"));
    const share = probabilities[name];
    return element(
        "p",
        {},
        element("strong", {}, name ?? t("verdict.none")),
        share === undefined ? "" : ` ${percent(share, 1)} `,
        quality.status === "limited" ? chip(t("quality.limited"), "careful") : null,
    );
}

/** Return what went wrong: the page's own words where it has them, the worker's with the numbers behind. */
function failure({ code, message }) {
    const known = word("error", code);
    return [
        element("p.small", {}, known),
        message && message !== known ? element("p.small.muted", { lang: "en" }, message) : null,
    ];
}

function stateCell(request) {
    const { status, error, summary, review } = request;
    return [
        element("p", {}, chip(stateWords(request), status), review ? ` ${t(`review.${review.verdict}`)}` : ""),
        notes(request),
        status === "processing" ? running(request) : null,
        status === "completed" && summary ? answer(summary) : null,
        error && status !== "completed" ? failure(error) : null,
    ];
}

function nameCell(request, facts) {
    // Of a slide that was stored without either, one is made of the other.
    const patient = new Set([personName(facts?.patient.PatientName), facts?.patient.PatientID].filter(Boolean));
    const details = [
        ...(patient.size || !facts ? patient : [`${t("identity.patient")}: ${t("identity.unknown")}`]),
        facts?.study.AccessionNumber,
        dicomDate(facts?.study.StudyDate),
    ].filter(Boolean);
    return [
        element(
            "a",
            { href: `result.html?request=${encodeURIComponent(request.request_id)}` },
            facts === null ? "…" : facts.container || t("identity.no_container"),
        ),
        details.length ? element("p.details", {}, details.map((detail) => element("span", {}, detail))) : null,
        element("p.small.muted", {}, element("code", {}, request.series_instance_uid)),
    ];
}

/** A row that changes only where the request has: what has the keyboard's focus stays. */
export class Row {
    constructor(actions) {
        this.actions = actions;
        this.cells = ["slide", "state", "age", "model", "worker", "actions"].map((name) => element(`td.${name}-cell`));
        this.element = element("tr", {}, this.cells);
        this.facts = null;
        this.asked = false;
        this.request = null;
        this.told = "";
    }

    /** Show a request. */
    show(request, now) {
        const [name, state, since, model, worker, actions] = this.cells;
        since.textContent = age(request.created, now);
        since.title = moment(request.created);
        const told = tells(request);
        if (this.told === told) return;
        this.told = told;
        const first = this.request === null;
        this.request = request;
        this.element.dataset.request = request.request_id;
        this.element.dataset.status = request.status;
        if (first) fill(name, nameCell(request, this.facts));
        fill(state, stateCell(request));
        fill(model, request.model ?? "–", request.model_version ? ` ${request.model_version}` : "");
        fill(worker, request.worker_id ?? "–", element("p.small.muted", {}, t("worklist.by", { by: request.created_by })));
        const wanted = `${request.status} ${request.cancel_requested}`;
        if (this.buttons !== wanted) {
            this.buttons = wanted;
            fill(actions, stateButtons(request, this.actions.changed, this.actions.told));
        }
    }

    /** Show which slide it is. */
    showFacts(facts) {
        this.facts = facts;
        fill(this.cells[0], nameCell(this.request, facts));
    }
}
