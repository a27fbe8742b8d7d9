// SPDX-License-Identifier: Apache-2.0
//
// "AI analysis" in classic Orthanc Explorer, on the pages of series and studies that hold a slide. Orthanc takes
// one script for its pages: this one only listens to them; what they show is in app/explorer/. The plugin calls this
// function with the numbers of its own attachments.

(function (ownAttachments) {
  'use strict';

  // Seen from the page, which may lie under any path of a proxy.
  const loaded = import(new URL('../pathology/app/explorer/page.js', document.baseURI).href);
  loaded.catch((error) => console.error(`AI analysis: ${error.message}`));

  for (const level of ['series', 'study']) {
    // Orthanc Explorer is of the jQuery that has live() and of jQuery Mobile with its own page events.
    $(`#${level}`).live('pagebeforeshow', () => {
      const id = $.mobile.pageData && $.mobile.pageData.uuid;
      loaded.then(({ enter }) => enter(level, id, ownAttachments), () => null);
    });
    $(`#${level}`).live('pagebeforehide', () => loaded.then(({ leave }) => leave(), () => null));
  }
})
