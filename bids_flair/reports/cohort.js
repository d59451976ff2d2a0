'use strict';
// Sorting the table of a group report. Without scripts it stays in the order of names.

document.documentElement.classList.add('scripted');

/** What a cell is sorted by: its number, or its text. */
function key(row, column) {
  const cell = row.cells[column];
  return 'value' in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim();
}

function compare(a, b) {
  // What is missing comes last, whichever way.
  if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
  return typeof a === 'number' ? a - b : a.localeCompare(b, 'en', { numeric: true });
}

function sort(heading) {
  const body = heading.closest('table').tBodies[0];
  const column = heading.cellIndex;
  const down = heading.getAttribute('aria-sort') === 'ascending';
  const rows = [...body.rows].sort((first, second) => {
    const [a, b] = [key(first, column), key(second, column)];
    return down && !Number.isNaN(a) && !Number.isNaN(b) ? compare(b, a) : compare(a, b);
  });
  for (const other of heading.parentElement.cells) other.removeAttribute('aria-sort');
  heading.setAttribute('aria-sort', down ? 'descending' : 'ascending');
  body.append(...rows);
}

for (const button of document.querySelectorAll('th button')) {
  button.addEventListener('click', () => sort(button.closest('th')));
}
