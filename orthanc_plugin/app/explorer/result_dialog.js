// SPDX-License-Identifier: Apache-2.0
// The result of a slide in a dialog over Orthanc Explorer: at a glance, and the ways to all the rest.

import { artifactUrl, exportUrl, getRequest } from "../api.js";
import { element, fill } from "../dom.js";
import { refusalWords } from "../failures.js";
import { moment } from "../format.js";
import { t } from "../i18n.js";
import { legend } from "../legend.js";
import { beside } from "../requests.js";
import * as sections from "../sections.js";
import { slideFacts } from "../slide_facts.js";

const OPACITY = 0.6;

/** One slide's results, the latest first; it is gone when it is closed. */
export class ResultDialog {
    constructor(parent, series, requests) {
        this.series = series;
        this.requests = requests;
        this.dialog = element("dialog.pathology-dialog", { "aria-label": t("result.kicker") });
        this.dialog.addEventListener("close", () => this.dialog.remove());
        parent.append(this.dialog);
        this.dialog.showModal();
    }

    close() {
        this.dialog.close();
    }

    /** Show one of the results. */
    async open(id) {
        this.#frame(t("result.kicker"), element("p.body", {}, t("panel.loading")));
        try {
            const [{ request }, facts] = await Promise.all([
                getRequest(id),
                // Without Orthanc's own word the dialog still names the slide by what the result says.
                slideFacts(this.series.ID, { most: 1 }).catch(() => null),
            ]);
            this.#show(request, facts);
        } catch (error) {
            this.#frame(t("result.kicker"), element("p.body.alarm", { role: "alert" }, refusalWords(error)));
        }
    }

    #frame(title, ...content) {
        const close = element("button.close", { type: "button", onclick: () => this.close() }, t("explorer.close"));
        const heading = element("div", {}, element("p.kicker", {}, t("result.kicker")), element("h2", {}, title));
        fill(this.dialog, element("header", {}, heading, close), content);
    }

    #show(request, facts) {
        const { container, details } = sections.identity(request, facts);
        const wrong = sections.contradictions(request, facts, null);
        const content = wrong.length || !request.result ? this.#without(request, wrong) : this.#result(request);
        this.#frame(container, element("div.body.identity", {}, details), content);
    }

    /** Nothing of a result that is about another slide, or that has been withdrawn meanwhile. */
    #without(request, wrong) {
        if (!wrong.length) return element("div.body", {}, sections.ending(request));
        const list = element("ul", {}, wrong.map((sentence) => element("li", {}, sentence)));
        return element("div.body.alarm", { role: "alert" }, element("strong", {}, t("alarm.title")), list);
    }

    #result(request) {
        const { result } = request;
        return [
            result.model?.use === "demonstration" ? element("p.demonstration", {}, t("banner.demonstration")) : null,
            element(
                "div.body.columns",
                {},
                element(
                    "section",
                    {},
                    this.#beside(request),
                    sections.verdict(result),
                    sections.quality(request),
                    sections.probabilities(result),
                    sections.extent(result),
                    this.#page(request),
                    this.#others(request),
                ),
                picture(request),
            ),
            element(
                "div.body.columns.details",
                {},
                element("section", {}, element("h3", {}, t("provenance.title")), sections.model(result)),
                element("section", {}, element("h3", {}, t("provenance.run")), sections.run(request), downloads(request)),
            ),
        ];
    }

    #page({ request_id: id }) {
        const page = new URL(`../result.html?request=${encodeURIComponent(id)}`, import.meta.url);
        return element("a.page", { href: page.href, target: "_blank", rel: "noopener" }, t("explorer.page"));
    }

    /** An older result is no more taken for the latest here than on its own page. */
    #beside(request) {
        const other = beside(request, this.requests);
        if (other === null) return null;
        const show = () => this.open(other.request_id);
        return sections.besideThis(request, other, element("button.beside", { type: "button", onclick: show }, t("beside.show")));
    }

    #others(current) {
        const others = this.requests.filter(({ request_id: id }) => id !== current.request_id);
        if (!others.length) return [];
        const item = ({ request_id: id, created, model }) => {
            const label = [moment(created), model].filter(Boolean).join(", ");
            return element("li", {}, element("button.other", { type: "button", onclick: () => this.open(id) }, label));
        };
        return [element("h3", {}, t("explorer.others")), element("ul.others", {}, others.map(item))];
    }
}

function downloads(request) {
    const links = sections.exports(request, (form) => exportUrl(request.request_id, form));
    return links.length ? [element("h3", {}, t("files.export")), element("div.buttons", {}, links)] : [];
}

/** The slide with the attention over it; else the finished page of the worker, whose words are small here. */
function picture(request) {
    const stored = new Set((request.artifacts ?? []).map(({ name }) => name));
    const url = (name) => artifactUrl(request.request_id, name);
    const image = (name, label) => element("img", { src: url(name), alt: label });
    const overlaid = stored.has("thumbnail.png") && stored.has("overlay.png");
    if (!overlaid && !stored.has("heatmap.png")) return element("figure.heatmap", {}, t("explorer.no_heatmap"));
    const shown = overlaid
        ? element("div.stack", {}, image("thumbnail.png", t("slide.label")), image("overlay.png", ""))
        : image("heatmap.png", t("slide.label"));
    if (overlaid) shown.lastElementChild.style.opacity = String(OPACITY);
    const whole = stored.has("heatmap.png");
    const link = { href: url("heatmap.png"), target: "_blank", rel: "noopener", title: t("explorer.heatmap") };
    return element(
        "figure.heatmap",
        {},
        whole ? element("a", link, shown) : shown,
        element("figcaption.legend", {}, legend({ cut: false })),
    );
}
