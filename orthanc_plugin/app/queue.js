// SPDX-License-Identifier: Apache-2.0
// All requests, kept up to date with few and small questions.

import { listRequests } from "./api.js";
import { isOpen } from "./requests.js";

const PAGE = 1000;

/** The requests that the server knows, newest first. */
export class Queue {
    #byId = new Map();

    get requests() {
        return [...this.#byId.values()].sort((a, b) => (a.created < b.created ? 1 : -1));
    }

    /** Take a request as an action has answered it. */
    take(request) {
        this.#byId.set(request.request_id, request);
    }

    /** Read everything again; what is not there any more is forgotten. */
    async readAll(signal) {
        const found = await this.#read({}, signal);
        this.#byId = new Map(found.map((request) => [request.request_id, request]));
    }

    /**
     * Read what may have changed by itself: everything created since the oldest open request, which holds
     * every open one and every new one.
     */
    async readNews(signal) {
        const requests = this.requests;
        const oldest = requests.filter(isOpen).at(-1) ?? requests[0];
        const found = await this.#read({ since: oldest?.created }, signal);
        for (const request of found) this.take(request);
        const seen = new Set(found.map(({ request_id: id }) => id));
        // Went with its slide.
        for (const request of requests) {
            if (request.created >= (oldest?.created ?? "") && !seen.has(request.request_id)) {
                this.#byId.delete(request.request_id);
            }
        }
    }

    async #read(filters, signal) {
        const found = [];
        let cursor = null;
        do {
            const page = await listRequests({ ...filters, limit: PAGE, cursor }, signal);
            found.push(...page.requests);
            cursor = page.next;
        } while (cursor);
        return found;
    }
}
