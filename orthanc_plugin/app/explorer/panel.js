// SPDX-License-Identifier: Apache-2.0
// The slides of a page with their analyses, live while somebody looks.

import { getRequest, listModels, listRequests } from "../api.js";
import { element, fill } from "../dom.js";
import { laterWords, refusalWords } from "../failures.js";
import { follow } from "../follow.js";
import { t } from "../i18n.js";
import { isOpen } from "../requests.js";
import { SlideRow } from "./slide_row.js";

const MOST_LISTED = 1000;
// A finished request changes only by a person, or by another one that is begun elsewhere.
const LOOK_AGAIN_S = 60;
const AT_ONCE_S = 1;
const WAIT_S = 25; // one slide on the page: its request is held open this long
const WAIT_OF_MANY_S = 5; // several: the one that is held must not hide the others' progress

/** Everything on one page of Orthanc Explorer; it ends with `stop`. */
export class Panel {
    #round = null;
    #requests = [];
    #rows = new Map();
    #models = [];
    #named = false;

    /**
     * @param {HTMLElement} body
     * @param {Object[]} series of one study that may be slides, as Orthanc describes them
     */
    constructor(body, series) {
        this.series = series;
        this.slides = element("div.slides");
        this.notice = element("p.notice", { role: "alert", hidden: true });
        const worklist = new URL("../worklist.html", import.meta.url).href;
        const all = element("a", { href: worklist, target: "_blank", rel: "noopener" }, t("nav.worklist"));
        fill(body, this.slides, this.notice, element("p.all", {}, all));
        this.#follow();
    }

    stop() {
        this.#round.abort();
        for (const row of this.#rows.values()) row.close();
    }

    /** Ask from the beginning; what was being waited for is given up. */
    #follow() {
        this.#round?.abort();
        const round = new AbortController();
        const { signal } = round;
        this.#round = round;
        follow(
            (hidden) => (signal.aborted ? null : this.#ask(AbortSignal.any([hidden, signal]))),
            (error, pause) => {
                if (!signal.aborted) this.#failed(error, pause);
                return error.passes && !signal.aborted;
            },
        );
    }

    async #ask(signal) {
        await this.#load(signal);
        this.#tell("");
        this.#show();
        if (!this.#named && this.#rows.size > 1) await this.#identify(signal);
        const open = this.#requests.filter(isOpen);
        if (!open.length) return LOOK_AGAIN_S;
        const held = open.find(({ status }) => status !== "pending") ?? open.at(-1);
        const wait = this.#rows.size > 1 ? WAIT_OF_MANY_S : WAIT_S;
        const { request, retryAfter } = await getRequest(held.request_id, { version: held.version, wait, signal });
        return request.version === held.version ? Math.max(retryAfter ?? 0, AT_ONCE_S) : 0;
    }

    async #load(signal) {
        const { requests } = await listRequests({ study: this.series[0].ParentStudy, limit: MOST_LISTED }, signal);
        this.#models = [...new Set((await listModels(signal)).map(({ name }) => name))].sort();
        // What an analysis has made is a result, not a slide to be analysed.
        const made = new Set(requests.flatMap(({ dicom }) => (dicom ?? []).map(({ series }) => series)));
        for (const one of this.series) {
            if (made.has(one.ID)) this.#drop(one.ID);
            else if (!this.#rows.has(one.ID)) this.#add(one);
        }
        this.#requests = requests
            .filter(({ series }) => this.#rows.has(series))
            .sort((a, b) => b.created.localeCompare(a.created));
    }

    /** One after the other: a study may have many slides, and the server other work. */
    async #identify(signal) {
        for (const row of this.#rows.values()) {
            await row.identify(signal);
            if (signal.aborted) return;
            this.#show();
        }
        this.#named = true;
    }

    #add(series) {
        const row = new SlideRow(series, { changed: () => this.#follow(), told: (error) => this.#failed(error, 0) });
        this.#rows.set(series.ID, row);
        this.slides.append(row.element);
    }

    #drop(id) {
        this.#rows.get(id)?.close();
        this.#rows.get(id)?.element.remove();
        this.#rows.delete(id);
    }

    #show() {
        for (const [id, row] of this.#rows) {
            const own = this.#requests.filter(({ series }) => series === id);
            row.show(own, this.#models, this.#rows.size > 1);
        }
    }

    #tell(text) {
        this.notice.hidden = !text;
        this.notice.textContent = text;
    }

    #failed(error, pause) {
        this.#tell(error.passes ? laterWords(error, pause) : refusalWords(error));
    }
}
