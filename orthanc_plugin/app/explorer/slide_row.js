// SPDX-License-Identifier: Apache-2.0
// One slide on a page of Orthanc Explorer: how its latest analysis stands, and what a person may do about it.

import { analyseKnowingly } from "../again.js";
import { element, fill } from "../dom.js";
import { moment } from "../format.js";
import { t, word } from "../i18n.js";
import { actionButton, canBeRetried, stateButtons } from "../opinions.js";
import { beside, isOpen, tells } from "../requests.js";
import * as sections from "../sections.js";
import { slideFacts } from "../slide_facts.js";
import { ResultDialog } from "./result_dialog.js";

/** Return what Orthanc's list calls a slide among others of its study. */
function listedName({ ID, MainDicomTags: tags }) {
    return tags.SeriesDescription || t("explorer.slide", { number: tags.SeriesNumber || ID });
}

function stateElements(request) {
    if (isOpen(request)) return sections.progress(request);
    if (request.status !== "completed") return sections.ending(request);
    const time = element("p.muted", {}, `${word("status", request.status)} · ${moment(request.updated)}`);
    return request.summary ? [sections.headline(request.summary), time] : time;
}

function finishedOf(requests) {
    return requests.filter(({ status }) => status === "completed");
}

/** A row that changes only where the requests have: what has the keyboard's focus stays. */
export class SlideRow {
    #shown = "";
    #offered = "";
    #dialog = null;
    #container = "";

    /**
     * @param {Object} series as Orthanc describes it
     * @param {{changed: function(): void, told: function(Error): void}} actions
     */
    constructor(series, { changed, told }) {
        this.series = series;
        this.changed = changed;
        this.told = told;
        this.title = element("h2");
        this.state = element("div.state", { "aria-live": "polite" });
        this.choice = element("div.choice");
        this.buttons = element("div.buttons");
        this.element = element(
            "section.slide",
            { "data-series": series.ID },
            this.title,
            this.state,
            this.choice,
            this.buttons,
        );
    }

    close() {
        this.#dialog?.close();
    }

    /** Ask what stands on the glass, by which people tell the slides of a study apart. */
    async identify(signal) {
        const facts = await slideFacts(this.series.ID, { most: 1, signal }).catch(() => null);
        this.#container = facts?.container ?? "";
    }

    #name() {
        return [this.#container, listedName(this.series)].filter(Boolean).join(" · ");
    }

    /**
     * @param {Object[]} requests of this slide, the latest first
     * @param {string[]} models that may be chosen
     * @param {boolean} among whether there are other slides on the page
     */
    show(requests, models, among) {
        const [latest] = requests;
        const earlier = latest ? beside(latest, requests) : null;
        this.title.textContent = among ? `${t("panel.title")}: ${this.#name()}` : t("panel.title");
        const version = [latest, earlier].map(tells).join();
        if (version !== this.#shown) {
            this.#shown = version;
            this.element.dataset.status = latest?.status ?? "";
            fill(
                this.state,
                latest ? stateElements(latest) : [],
                earlier ? sections.besideThis(latest, earlier) : null,
            );
        }
        this.#offer(requests, models);
    }

    #offer(requests, models) {
        const [latest] = requests;
        const finished = finishedOf(requests).map(({ request_id: id }) => id);
        const open = latest !== undefined && isOpen(latest);
        const offered = JSON.stringify([latest?.request_id, latest?.status, latest?.cancel_requested, finished, models]);
        if (offered === this.#offered) return;
        this.#offered = offered;
        // What failed is tried again as it was asked for; only with another model it is a new request.
        const retried = latest !== undefined && canBeRetried(latest) && models.length < 2;
        this.#offerModels(open ? [] : models);
        const told = (error) => this.told(error);
        fill(
            this.buttons,
            finished.length ? this.#resultButton(requests) : null,
            latest ? stateButtons(latest, () => this.changed(), told) : null,
            open || retried ? null : this.#startButton(requests),
        );
    }

    #resultButton(requests) {
        const finished = finishedOf(requests);
        const open = () => {
            this.#dialog = new ResultDialog(this.element, this.series, finished);
            this.#dialog.open(finished[0].request_id);
        };
        // What failed or was withdrawn has no result: the button must not promise one of it.
        const [name, label] = requests[0] === finished[0] ? ["result.primary", "result"] : ["result", "earlier_result"];
        return element(`button.${name}`, { type: "button", onclick: open }, t(`explorer.${label}`));
    }

    #startButton(requests) {
        const [latest] = requests;
        const start = async () => {
            const model = this.choice.querySelector("select")?.value;
            const wanted = { series: this.series.ID, ...(model && { model }) };
            await analyseKnowingly(this.element, wanted, requests);
            this.changed();
        };
        const [name, label] = latest ? ["again", "panel.again"] : ["start", "panel.start"];
        return actionButton(name, t(label), start, (error) => this.told(error));
    }

    /** Several models that living workers offer: the site's own choice stands first. */
    #offerModels(models) {
        if (models.length < 2) {
            fill(this.choice);
            return;
        }
        const before = this.choice.querySelector("select")?.value ?? "";
        const names = ["", ...models];
        const options = names.map((name) => element("option", { value: name }, name || t("explorer.default_model")));
        const select = element("select.model", {}, options);
        select.value = names.includes(before) ? before : "";
        fill(this.choice, element("label", {}, t("panel.model"), " ", select));
    }
}
