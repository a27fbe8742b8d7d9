// SPDX-License-Identifier: Apache-2.0
// The files of results are attachments of their series, and Orthanc Explorer lists each as a button "Download 5100".

const tidied = new WeakSet();

/**
 * Keep the plugin's own attachments out of Orthanc Explorer's list of a series; what others attached stays.
 * @param {{archive: number, first: number}} own the numbers that only the plugin writes: one, and all from another on
 */
export function hideOwnAttachments({ archive, first }) {
    const list = document.getElementById("series-access");
    if (list === null || tidied.has(list)) return;
    tidied.add(list);
    const isOwn = (item) => {
        const number = Number(item.querySelector("a")?.id);
        return number === archive || number >= first;
    };
    const tidy = () => {
        const own = [...list.querySelectorAll("li.series-attachment")].filter(isOwn);
        if (!own.length) return;
        for (const item of own) item.remove();
        // jQuery Mobile gives the first and the last of a list their round corners.
        window.$(list).listview("refresh");
    };
    new MutationObserver(tidy).observe(list, { childList: true });
    tidy();
}
