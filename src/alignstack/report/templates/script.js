const rows = [...document.querySelectorAll(".failure")];
const find = document.getElementById("find"), cause = document.getElementById("cause"), label = document.getElementById("label");
const shown = document.getElementById("shown");
const filter = () => {
  const words = find.value.toLowerCase();
  let count = 0;
  for (const row of rows) {
    const keep = (!cause.value || row.dataset.cause === cause.value) && (!label.value || row.dataset.label === label.value)
      && row.textContent.toLowerCase().includes(words);
    row.hidden = !keep;
    count += keep;
  }
  shown.textContent = `${count} of ${rows.length}`;
};
for (const field of [find, cause, label]) field?.addEventListener("input", filter);
