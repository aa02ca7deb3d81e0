// Loss and learning rate by training step, a line for each phase of each stage, and the same as a table.
import { picture } from "./charts.js";

const SOME = 400;  // rows of the table

export class Curves {
  constructor(place) {
    this.place = place;
    this.phases = new Map();
    this.rows = document.getElementById("curve-rows");
    this.changed = false;
    this.charts = null;
    setInterval(() => this.show(), 1000);
  }

  // The job is over: hide the section if nothing was trained.
  end() { this.show(); this.place.hidden = this.phases.size === 0; }

  add(data) {
    if (data.loss === null && data.rate === null) return;
    const name = `${data.stage}: ${data.part ? `${data.part}, ` : ""}${data.phase}`;
    if (!this.phases.has(name)) this.phases.set(name, { stage: data.stage, points: [] });
    const points = this.phases.get(name).points;
    // A new attempt resumes from a saved step: repeated steps replace earlier ones.
    while (points.length && points.at(-1).step >= data.step) points.pop();
    points.push({ step: data.step, loss: data.loss, rate: data.rate, score: data.score });
    this.changed = true;
  }

  show() {
    if (!this.changed) return;
    this.changed = false;
    document.getElementById("no-curves").hidden = true;
    document.getElementById("curve-charts").hidden = false;
    if (this.charts === null) {
      this.charts = [
        picture(document.getElementById("loss-chart"), (looks) => this.options(looks, "loss")),
        picture(document.getElementById("rate-chart"), (looks) => this.options(looks, "rate")),
      ];
    } else this.charts.forEach((chart) => chart.draw());
    this.table();
  }

  options({ axis, legend, tooltip, colours }, figure) {
    // Phases share one axis: each begins where the previous one ends.
    let offset = 0;
    const seen = new Map();
    const series = [...this.phases].map(([name, { stage, points }]) => {
      const number = seen.get(stage) ?? 0;
      seen.set(stage, number + 1);
      const data = points.filter((point) => point[figure] !== null).map((point) => [offset + point.step, point[figure]]);
      offset += points.at(-1).step;
      return {
        name, type: "line", data, showSymbol: data.length < 2, symbolSize: 6, lineStyle: { width: 2, type: ["solid", "dashed", "dotted"][number % 3] },
        itemStyle: { color: colours[stage] }, color: colours[stage],
      };
    });
    return {
      tooltip: { ...tooltip, trigger: "axis", valueFormatter: (value) => (value === undefined ? "–" : Number(value).toPrecision(4)) },
      // As the lines are drawn, solid, dashed or dotted: phases of one stage have one colour.
      legend: { ...legend, icon: "inherit", itemWidth: 30, top: 0 }, grid: { left: 8, right: 16, top: 40, bottom: 28, containLabel: true },
      xAxis: { ...axis, type: "value", name: "step", nameLocation: "middle", nameGap: 28, minInterval: 1, max: "dataMax" },
      yAxis: { ...axis, type: "value", scale: figure === "loss", axisLabel: { ...axis.axisLabel, formatter: (value) => Number(value.toPrecision(6)).toString() } },
      series,
    };
  }

  table() {
    const all = [...this.phases].flatMap(([name, { points }]) => points.map((point) => ({ name, ...point })));
    const every = Math.max(1, Math.ceil(all.length / SOME));
    const cell = (tag, text, number) => {
      const made = document.createElement(tag);
      made.textContent = text;
      if (number) made.className = "number"; else made.scope = "row";
      return made;
    };
    this.rows.replaceChildren(...all.filter((point, place) => place % every === 0 || point.score !== null).map((point) => {
      const row = document.createElement("tr");
      const shown = (value) => (value === null ? "–" : Number(value).toPrecision(4));
      row.append(cell("th", point.name, false), ...[point.step, shown(point.loss), shown(point.rate), shown(point.score)].map((text) => cell("td", text, true)));
      return row;
    }));
  }
}
