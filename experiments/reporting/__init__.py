"""Result rows as tables, pages and figures."""
