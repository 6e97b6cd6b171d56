"""The basic signals in German, French, Spanish, Polish, Italian and Portuguese; accents are folded away before."""

from __future__ import annotations

from meshflow_guardrails.words import N, Signal, up_to

OTHER_LANGUAGES: tuple[Signal, ...] = (
    Signal(
        "override_de",
        1.0,
        r"\b(?:ignorier\w*|vergiss|vergessen|missacht\w*|uberschreib\w*|umgeh\w*|setz\w*|"
        rf"befolge\w*){N}{up_to(3)}(?:alle\w*|vorherig\w*|bisherig\w*|fruher\w*|obig\w*|vorig\w*|"
        rf"samtlich\w*|dein\w*|vorangegangen\w*|urspruglich\w*){N}{up_to(3)}(?:anweisung\w*|instruktion\w*|"
        r"regeln?|befehle?|vorgaben|anleitungen|richtlinien|prompts?|beschrankungen)\b",
        quotable=True,
    ),
    Signal(
        "leak_de",
        1.0,
        r"\b(?:zeig\w*|gib|gebe|nenn\w*|verrat\w*|druck\w*|wiederhol\w*|"
        rf"schreib\w*){N}{up_to(5)}(?:system-?\s?prompts?|systemanweisung\w*|systemnachricht|"
        r"dein\w* (?:anweisungen|instruktionen|ursprung\w* \w+))\b",
        quotable=True,
    ),
    Signal(
        "override_fr",
        1.0,
        r"\b(?:ignor(?:e|ez|er)|oubli(?:e|ez|er)|ne (?:tiens|tenez) (?:pas|plus) compte|neglig(?:e|ez|er)|"
        rf"ne (?:suis|suivez) (?:pas|plus)){N}{up_to(4)}(?:instructions?|consignes?|directives?|regles|"
        rf"ordres)(?:{N}{up_to(2)}(?:precedente?s?|anterieure?s?|ci-dessus|initiales?|donnees|recues|"
        r"de securite))",
        quotable=True,
    ),
    Signal(
        "override_fr_all",
        0.9,
        rf"\b(?:ignor(?:e|ez)|oubli(?:e|ez)){N}(?:(?:toutes|tous){N})?(?:tes|vos|"
        rf"ces){N}{up_to(2)}(?:instructions|consignes|directives|regles)\b",
        quotable=True,
    ),
    Signal(
        "leak_fr",
        1.0,
        rf"\b(?:montre|revel\w*|affiche|donne|repete|ecris|divulgue)[rz]?{N}{up_to(5)}(?:prompt systeme|"
        r"(?:ton|votre) (?:prompt|invite)|(?:tes|vos) (?:instructions|consignes)|instructions (?:initiales|"
        r"systeme|cachees))\b",
        quotable=True,
    ),
    Signal(
        "override_es",
        1.0,
        r"\b(?:ignor(?:a|e|ar|en|ad)|olvid(?:a|e|ar|ate)|descarta|desestima|omite|no sigas|"
        rf"haz caso omiso de){N}{up_to(4)}(?:instrucciones|indicaciones|ordenes|reglas|"
        rf"directrices){N}{up_to(1)}(?:anteriores|previas|precedentes|de arriba|dadas|originales|iniciales)",
        quotable=True,
    ),
    Signal(
        "override_es_all",
        0.9,
        rf"\b(?:ignora|ignore|olvida|olvide){N}(?:todas{N})?(?:tus|sus){N}{up_to(2)}(?:instrucciones|"
        r"indicaciones|ordenes|reglas|directrices|restricciones)\b",
        quotable=True,
    ),
    Signal(
        "leak_es",
        1.0,
        r"\b(?:muestra|muestrame|revela|dime|imprime|repite|escribe|"
        rf"ensename){N}{up_to(5)}(?:prompt del sistema|(?:tu|tus|el) (?:prompt|instrucciones (?:iniciales|"
        r"ocultas|del sistema|originales)))\b",
        quotable=True,
    ),
    Signal(
        "override_pl",
        1.0,
        r"\b(?:zignoruj\w*|ignoruj\w*|zapomnij\w*|pomin\w*|nie zwracaj uwagi na|"
        rf"odrzuc\w*){N}{up_to(3)}(?:poprzedni\w*|wczesniejsz\w*|wszystki\w*|wszelki\w*|powyzsz\w*|swoj\w*|"
        rf"twoj\w*|dotychczasow\w*){N}{up_to(3)}(?:instrukcj\w*|polece\w*|zasad\w*|wytyczn\w*|regul\w*|"
        r"ogranicze\w*)",
        quotable=True,
    ),
    Signal(
        "leak_pl",
        1.0,
        r"\b(?:pokaz\w*|ujawnij\w*|wyswietl\w*|wypisz\w*|podaj\w*|zdradz\w*|"
        rf"powtorz\w*){N}{up_to(4)}(?:prompt\w* systemow\w*|instrukcj\w* systemow\w*|swoj\w* (?:prompt\w*|"
        r"instrukcj\w*)|twoj\w* (?:prompt\w*|instrukcj\w*))",
        quotable=True,
    ),
    Signal(
        "override_it_pt",
        1.0,
        rf"\b(?:ignor(?:a|are|ate|e|i)|dimentica\w*|esquec[ae]\w*|desconsidere){N}{up_to(4)}(?:istruzioni|"
        rf"regole|direttive|instrucoes|regras|ordens){N}{up_to(2)}(?:precedenti|iniziali|sopra|anteriores|"
        r"acima|iniciais)",
        quotable=True,
    ),
)
