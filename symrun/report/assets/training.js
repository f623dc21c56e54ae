// Loss and accuracy of all runs over updates.
function drawTraining(runs) {
  "use strict";
  for (const quantity of ["loss", "top1"]) {
    const host = document.getElementById(quantity);
    if (!host) continue;
    const lines = runs
      .flatMap((run, place) =>
        ["train", "val"].map((split) => ({
          split,
          place,
          name: run.name,
          rows: run.progress[split],
        })),
      )
      .filter(({ rows }) => rows[quantity].some((value) => value !== null));
    host.parentElement.hidden = !lines.length;
    if (!lines.length) continue;
    const steps = [...new Set(lines.flatMap(({ rows }) => rows.step))].sort(
      (one, other) => one - other,
    );
    const drawn = lines.map(({ split, place, name, rows }) => {
      const at = new Map(rows.step.map((step, number) => [step, rows[quantity][number]]));
      return {
        label: `${name} ${split}`,
        values: steps.map((step) => at.get(step)),
        colour: `--u${(place * 2) % 12}`,
        dash: split === "val" ? [6, 4] : undefined,
      };
    });
    charts.chart(host, steps, drawn);
    const legend = host.parentElement.appendChild(document.createElement("figcaption"));
    legend.replaceChildren(
      ...lines.map(({ split, place, name }) => {
        const mark = document.createElement("span");
        mark.className = `mark ${split}`;
        mark.style.setProperty("--unit", `var(--u${(place * 2) % 12})`);
        mark.textContent = `${runs.length > 1 ? `${name}, ` : ""}${split === "val" ? "validation" : "training"}`;
        return mark;
      }),
    );
  }
}
