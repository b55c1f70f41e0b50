"use strict";
// Filters only: without this script the page shows everything.
(() => {
  const PAGE = 40;
  const byId = (id) => document.getElementById(id);

  const problems = byId("problem-filter");
  if (problems) {
    const rows = [...byId("problem-rows").querySelectorAll(".row")];
    const texts = new Map();
    let limit = PAGE;
    const found = (row, word) => {
      if (!word) return true;
      if (!texts.has(row)) texts.set(row, row.textContent.toLowerCase());
      return texts.get(row).includes(word);
    };
    const show = () => {
      const outcome = problems.elements.outcome.value;
      const set = problems.elements.set ? problems.elements.set.value : "";
      const word = problems.elements.search.value.trim().toLowerCase();
      let matches = 0;
      for (const row of rows) {
        const match = (!outcome || row.dataset.outcome === outcome) && (!set || row.dataset.set === set) && found(row, word);
        matches += match;
        row.hidden = !match || matches > limit;
      }
      byId("problem-count").textContent = `${Math.min(matches, limit)} of ${matches} problems shown`;
      byId("problem-more").hidden = matches <= limit;
    };
    problems.addEventListener("input", () => { limit = PAGE; show(); });
    problems.addEventListener("submit", (event) => event.preventDefault());
    byId("problem-more").addEventListener("click", () => { limit += 4 * PAGE; show(); });
    show();
  }

  const groups = byId("group-filter");
  if (groups) {
    const cards = [...byId("groups").children];
    const step = groups.elements.step;
    const show = () => {
      let shown = 0;
      for (const card of cards) {
        const match = (!step.value || card.dataset.step === step.value) && (!groups.elements.spread.checked || card.dataset.spread === "yes");
        card.hidden = !match;
        shown += match;
      }
      byId("group-count").textContent = `${shown} groups shown`;
      byId("step-before").disabled = step.selectedIndex <= 1;
      byId("step-after").disabled = step.selectedIndex === step.options.length - 1;
    };
    const move = (by) => { step.selectedIndex = Math.max(1, step.selectedIndex + by); show(); };
    groups.addEventListener("input", show);
    groups.addEventListener("submit", (event) => event.preventDefault());
    byId("step-before").addEventListener("click", () => move(-1));
    byId("step-after").addEventListener("click", () => move(1));
    show();
  }
})();
